package gating

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/detect"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// actorDetector is who begins a failover that nobody asked for.
const actorDetector = "detector"

// watched is one service as the leading gate's detector has it. Guarded by world.mu.
type watched struct {
	det     *detect.Detector
	set     detect.Settings
	verdict detect.Verdict
	last    map[string]tidegate.Instant // per observer: the observation taken last, on this gate's boot clock
	suspect tidegate.Instant            // when it was last up, or anything but suspect and down; for t1
	assess  bool                        // the rules are being asked
	asked   tidegate.Instant            // when they were last
	against []string                    // what stood against acting, when they were asked last

	declared uint64 // episodes that were told of
	would    uint64 // episodes of which it was told that it would act
	down     bool   // it was told that the service is down, and not that it is up again
}

func settingsOf(d registry.Detector) detect.Settings {
	return detect.Settings{Mode: detect.Mode(d.Mode), DownAfter: d.DownAfter, Agree: d.Agree, AntiFlap: d.AntiFlap}.SetDefaults()
}

// judge steps the detectors of every service while this gate leads, and does
// what follows, until ctx ends. It has stopped everything it began when it returns.
func (l *lookout) judge(ctx context.Context) error {
	tick := time.NewTicker(judgePeriod)
	defer tick.Stop()
	var busy sync.WaitGroup
	defer busy.Wait()
	for before := l.world.clock.Boot(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := l.world.clock.Boot()
		l.world.read(func() { l.pause = max(l.pause, time.Duration(now-before)) })
		before = now
		if !l.control.leads() {
			l.stop()
			continue
		}
		v, reachable, _ := l.world.current()
		if v.Revision == 0 {
			continue
		}
		for _, name := range v.ServiceNames() {
			l.feed(v, name)
			w, ask := l.step(v, name)
			l.tell(ctx, name, w)
			if ask && reachable {
				busy.Go(func() { l.consider(ctx, name) })
			}
		}
	}
}

// stop forgets everything: another gate leads, and what this one remembers
// would be old when it leads again.
func (l *lookout) stop() {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	clear(l.watched)
	clear(l.world.signs)
}

// feed gives the detector of a service what is new.
func (l *lookout) feed(v *registry.View, name tidegate.ServiceName) {
	var own []registry.Sight
	if s, ok := l.session(v, name); ok {
		own = append(own, s)
	}
	if s, ok := l.probes.sight(name, l.now()); ok {
		own = append(own, s)
	}
	_, site, _ := writerOf(v, name)
	svc := v.Services[name].Value
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	now := l.world.clock.Boot()
	w := l.watched[name]
	if w == nil {
		w = &watched{det: detect.New(settingsOf(svc.Detector)), last: map[string]tidegate.Instant{}, suspect: now}
		l.watched[name] = w
	}
	w.set = settingsOf(svc.Detector)
	w.det.Set(w.set)
	w.det.Primary(site)
	if ago, ok := l.roleChanged(v, name); ok {
		w.det.RoleChanged(now, ago)
	}
	me := seenGate{Vantage: registry.Vantage{Gate: l.name, Site: l.site, At: now, Sees: l.seesLocked()}}
	for _, s := range own {
		w.det.Observe(now, me.observation(s))
	}
	for _, n := range slices.Sorted(maps.Keys(l.world.standbys)) {
		st := l.world.standbys[n]
		o, member := beacons(v, name, n, st)
		if !member || w.last["standby/"+string(n)] == st.at {
			continue
		}
		w.last["standby/"+string(n)] = st.at
		w.det.Observe(now, o)
	}
	for _, n := range slices.Sorted(maps.Keys(l.others)) {
		g := l.others[n]
		if g.seen == 0 || w.last["gate/"+n] == g.seen {
			continue
		}
		w.last["gate/"+n] = g.seen
		for _, s := range g.Sights {
			if s.Service == name {
				w.det.Observe(now, g.observation(s))
			}
		}
	}
}

// roleChanged returns how long ago the service's records last changed: a change
// of writer, or something that makes one unwise.
func (l *lookout) roleChanged(v *registry.View, name tidegate.ServiceName) (ago time.Duration, ok bool) {
	for _, s := range v.StreamsOf(name) {
		rec := v.Epochs[s.ID].Value
		if rec.ActiveEpoch == 0 {
			continue
		}
		if d := max(l.now().Sub(time.Unix(0, rec.Since)), 0); !ok || d < ago {
			ago, ok = d, true
		}
	}
	return ago, ok
}

// step judges one service, and says whether the rules are to be asked now.
func (l *lookout) step(v *registry.View, name tidegate.ServiceName) (watched, bool) {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	now := l.world.clock.Boot()
	w := l.watched[name]
	w.verdict = w.det.Tick(now)
	switch w.verdict.State {
	case detect.Suspect, detect.Down:
	case detect.Up, detect.Undecided:
		w.suspect = now
		w.against = nil
	}
	if sign, ok := signOf(w.verdict); ok {
		l.world.signs[name] = now - tidegate.Instant(sign)
	} else {
		delete(l.world.signs, name)
	}
	ask := w.verdict.State == detect.Down && w.set.Mode != detect.Off && !w.assess && now-w.asked >= tidegate.Instant(time.Second) && len(v.StreamsOf(name)) > 0
	if ask {
		w.assess, w.asked = true, now
	}
	return *w, ask
}

// signOf returns the time since the primary last gave a sign of life to anybody
// but the standby side, whose beacons must not vouch for themselves.
func signOf(v detect.Verdict) (d time.Duration, ok bool) {
	for _, x := range v.Votes {
		if x.Silent != nil && x.Point.Kind != detect.Beacon && (!ok || *x.Silent < d) {
			d, ok = *x.Silent, true
		}
	}
	return d, ok
}

// tell writes down, once, that a service was taken for down, and that it is up again.
func (l *lookout) tell(ctx context.Context, name tidegate.ServiceName, w watched) {
	if w.set.Mode == detect.Off {
		return
	}
	x := w.verdict
	switch {
	case x.State == detect.Down && x.Episode > w.declared:
		l.log.Warn("the detector takes a service's primary for down", "service", name, "episode", x.Episode, "votes", votesText(x))
		l.declare(l.declaration(ctx, name, "down", w))
		l.mark(name, func(w *watched) { w.declared, w.down = x.Episode, true })
	case x.State == detect.Up && w.down:
		l.log.Info("the detector sees a service's primary again", "service", name, "episode", w.declared)
		l.declare(l.declaration(ctx, name, "up again", w))
		l.mark(name, func(w *watched) { w.down = false })
	}
}

func (l *lookout) declaration(ctx context.Context, name tidegate.ServiceName, what string, w watched) registry.AuditEntry {
	e := l.entry(ctx, ActionDeclare, name, strings.Join(w.verdict.Reasons, "; "),
		fact("state", "%s", what), fact("mode", "%s", w.set.Mode), fact("episode", "%d", w.verdict.Episode), fact("votes", "%s", votesText(w.verdict)))
	e.Actor = actorDetector + "/" + l.name
	return e
}

// mark changes what is kept of a service, if it is still watched.
func (l *lookout) mark(name tidegate.ServiceName, change func(*watched)) {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	if w := l.watched[name]; w != nil {
		change(w)
	}
}

func votesText(v detect.Verdict) string {
	var out []string
	for _, x := range v.Votes {
		out = append(out, fmt.Sprintf("%s: %s, %s", x.Point, x.Ballot, x.Why))
	}
	return strings.Join(out, "; ")
}

// consider asks the rules about a failover and begins it where the mode and
// everything else permits: by the same path, under the same rules as an operator.
func (l *lookout) consider(ctx context.Context, name tidegate.ServiceName) {
	defer l.mark(name, func(w *watched) { w.assess = false })
	rec, set, err := l.proposal(ctx, name)
	if err != nil {
		if ctx.Err() == nil {
			l.log.Warn("a failover could not be considered", "service", name, "err", err)
		}
		l.mark(name, func(w *watched) { w.against = []string{err.Error()} })
		return
	}
	p := permission(rec.view.GetRules())
	var d detect.Decision
	var w watched
	tell, held := false, false
	l.mark(name, func(x *watched) {
		now := l.world.clock.Boot()
		x.set = set // the plan begins only if the service is still configured like that
		x.det.Set(set)
		d = x.det.Decide(now, x.verdict, p)
		held = !d.Act && x.set.Mode == detect.Auto && len(d.Why) > 0 && len(x.against) == 0
		x.against = d.Why
		if d.Act {
			x.det.RoleChanged(now, 0) // an attempt, whatever comes of it
		}
		if (d.Would || d.Act) && x.verdict.Episode > x.would {
			x.would, tell = x.verdict.Episode, true
		}
		w = *x
	})
	if held {
		l.log.Warn("a failover by itself is held up", "service", name, "why", strings.Join(d.Why, "; "))
	}
	if tell && d.Would {
		l.log.Warn("the detector would have failed over", "service", name, "target", rec.view.GetTarget().GetNode(), "votes", votesText(w.verdict))
		l.declare(l.declaration(ctx, name, "would have failed over to "+rec.view.GetTarget().GetNode(), w))
	}
	if d.Act {
		l.act(ctx, name, rec, w)
	}
}

// proposal draws the failover as it would be done now, with every rule's verdict,
// and returns the detector's settings by the same tables: it begins only while
// they stand.
func (l *lookout) proposal(ctx context.Context, name tidegate.ServiceName) (planRecord, detect.Settings, error) {
	v, err := l.store.Read(ctx)
	if err != nil {
		return planRecord{}, detect.Settings{}, err
	}
	l.world.setView(v)
	given, err := l.overridesInForce(ctx, name)
	if err != nil {
		return planRecord{}, detect.Settings{}, err
	}
	set := settingsOf(v.Services[name].Value.Detector)
	q := question{action: rules.Auto, service: name, actor: actorDetector, overrides: given, at: l.now()}
	rec, err := l.control.failoverPlan(ctx, v, q, "the detector takes the primary for down", actorDetector+"/"+l.name)
	return rec, set, err
}

func permission(vs []*pb.RuleVerdict) detect.Permission {
	p := detect.Permission{Holds: !failing(vs)}
	for _, r := range vs {
		if !r.GetHolds() {
			p.Why = append(p.Why, r.GetRule()+": "+r.GetReason())
		}
	}
	return p
}

// begin starts the plan. Tables that changed under it are looked at again: what
// changed them may be what now stands against it.
func (l *lookout) begin(ctx context.Context, name tidegate.ServiceName, rec planRecord, w watched) (*handle, error) {
	for tries := 0; ; tries++ {
		l.stamp(&rec.plan.Times, w)
		rec.plan.Reason = "the detector takes the primary for down: " + strings.Join(w.verdict.Reasons, "; ")
		rec.view.Reason = rec.plan.Reason
		h, err := l.control.start(ctx, rec)
		if !errors.Is(err, tidegate.ErrConflict) || l.control.runningPlan(name) != nil || tries == conflictRetries {
			return h, err
		}
		var set detect.Settings
		if rec, set, err = l.proposal(ctx, name); err != nil {
			return nil, err
		}
		if failing(rec.view.GetRules()) {
			return nil, refusal(rec.view)
		}
		if why := l.wavers(name, set); why != "" {
			return nil, &tidegate.Error{Op: "begin a failover of", Subject: string(name), Class: tidegate.Refused, Err: errors.New(why)}
		}
	}
}

// wavers says why a failover that was decided on is not to be begun any more; ""
// when it is: what changed the tables may have been the operator who switched the
// detector off, and meanwhile the primary may have been heard.
func (l *lookout) wavers(name tidegate.ServiceName, set detect.Settings) string {
	why := "this gate does not lead any more"
	l.mark(name, func(w *watched) {
		switch {
		case set.Mode != detect.Auto:
			why = fmt.Sprintf("the detector's mode is %s now", set.Mode)
		case w.verdict.State != detect.Down:
			why = fmt.Sprintf("the primary is %s now", w.verdict.State)
		default:
			why = ""
		}
	})
	return why
}

// act begins the failover and tells how it ended.
func (l *lookout) act(ctx context.Context, name tidegate.ServiceName, rec planRecord, w watched) {
	l.log.Warn("the detector begins a failover", "service", name, "target", rec.plan.Target, "votes", votesText(w.verdict))
	l.declare(l.declaration(ctx, name, "failing over to "+string(rec.plan.Target.Node), w))
	h, err := l.begin(ctx, name, rec, w)
	if err == nil {
		select {
		case <-h.over:
		case <-ctx.Done():
			return // the plan goes on, here or at the next leader
		}
		var p fence.Plan
		var view *pb.Plan
		if p, view, err = h.result(); err == nil {
			err = verdictErr(p, view)
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		l.log.Error("the detector's failover did not come to its end", "service", name, "err", err)
	}
}

// stamp sets t0 and t1 where the prober did not: the last sign of life anybody
// had, and the moment from which the detector was uneasy.
func (l *lookout) stamp(t *fence.Timings, w watched) {
	wall, boot := l.now(), l.world.clock.Boot()
	at := func(i tidegate.Instant) time.Time { return wall.Add(-time.Duration(boot - i)) }
	if t.T0.IsZero() && w.verdict.Silent != nil {
		t.T0 = wall.Add(-*w.verdict.Silent)
	}
	if t.T1 = at(w.suspect); t.T1.Before(t.T0) {
		t.T1 = t.T0
	}
}

// mayAct says why a service's detector must not be set to act by itself; nil
// when it may: vantage points at enough sites, and gates that are armed.
func (l *lookout) mayAct(v *registry.View, name tidegate.ServiceName) error {
	var sites []tidegate.SiteName
	l.mark(name, func(w *watched) { sites = w.det.Sites(l.world.clock.Boot()) })
	var errs []error
	if len(sites) < detect.SitesMinAuto {
		errs = append(errs, fmt.Errorf("vantage points at %d sites %v have been heard from lately: want %d, by a gate with a probe at each further site", len(sites), sites, detect.SitesMinAuto))
	}
	if v.Services[name].Value.Disarmed {
		errs = append(errs, errors.New("the arm switch is off: `tidegate gate arm` first"))
	}
	for _, s := range v.StreamsOf(name) {
		if rec := v.Epochs[s.ID].Value; rec.Gate.State != fence.GateArmed || rec.Gate.Mode == tidegate.ModeOpen {
			errs = append(errs, fmt.Errorf("stream %s: gate %s in mode %s: want one that is armed with bounds", s.Name, strings.ToLower(string(rec.Gate.State)), rec.Gate.Mode))
		}
	}
	return errors.Join(errs...)
}

// checkDetector says what is wrong with detector settings of a service.
func (l *lookout) checkDetector(v *registry.View, name tidegate.ServiceName, d registry.Detector) error {
	set := settingsOf(d)
	err := set.Validate()
	if set.Mode == detect.Auto {
		err = errors.Join(err, l.mayAct(v, name))
	}
	return err
}
