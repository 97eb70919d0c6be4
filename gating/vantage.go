package gating

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/detect"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/gating/registry"
)

const (
	// sightPeriod is how often a gate writes down what it sees of each service.
	sightPeriod = time.Second
	// judgePeriod is how often a leading gate judges; far below what the detector
	// takes for a pause.
	judgePeriod = 500 * time.Millisecond
	// sessionFresh is how old an agent's report may be to count as being there:
	// it comes each second.
	sessionFresh = 2 * time.Second
	// vantageFresh is how long another gate counts as seen.
	vantageFresh = 4 * time.Second
	// toldMax bounds the declarations that wait for the registry.
	toldMax = 64
)

// lookout is a gate's eyes: every gate writes down what it sees of the services'
// primaries, and the one that leads judges what all of them see. Reports of
// standby nodes come to the leader as they are.
//
// Why the registry and not a call to the leader: gates do not know each other's
// addresses, and a gate that can write there has just proven that it is not the
// one that is cut off.
type lookout struct {
	parts
	control *controller
	site    tidegate.SiteName
	run     tidegate.ID
	told    chan registry.AuditEntry // judging never waits for the registry

	// The rest is guarded by world.mu, which is never held over I/O: judging needs
	// the world and these together.
	pause   time.Duration       // longest gap between two steps of judge since the last writing
	others  map[string]seenGate // by name; this gate is not among them
	watched map[tidegate.ServiceName]*watched
}

// seenGate is another gate's record with the moment it was seen to change.
type seenGate struct {
	registry.Vantage
	seen tidegate.Instant // on this gate's boot clock
}

// newLookout makes one; its parts and its controller, which know it, are set after.
func newLookout(site tidegate.SiteName) *lookout {
	return &lookout{site: site, run: tidegate.NewID(), told: make(chan registry.AuditEntry, toldMax), others: map[string]seenGate{}, watched: map[tidegate.ServiceName]*watched{}}
}

// watch observes and judges until ctx ends; nil then.
func (l *lookout) watch(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.exchange(ctx) })
	g.Go(func() error { return l.judge(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case e := <-l.told:
				l.note(ctx, e)
			}
		}
	})
	return g.Wait()
}

// declare puts an entry on the audit trail as soon as the registry takes it.
func (l *lookout) declare(e registry.AuditEntry) {
	select {
	case l.told <- e:
	default:
		l.log.Warn("too many declarations wait for the registry, one is not on the audit trail", "service", e.Service, "detail", e.Detail)
	}
}

// asleep returns this gate's longest pause since it was asked last: between steps
// that wait for nobody.
func (l *lookout) asleep() time.Duration {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	d := l.pause
	l.pause = 0
	return d
}

// exchange writes what this gate sees and reads what the others do.
func (l *lookout) exchange(ctx context.Context) error {
	tick := time.NewTicker(sightPeriod)
	defer tick.Stop()
	for step := uint64(1); ; step++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		v, reachable, _ := l.world.current()
		if !reachable {
			continue // it says so itself, and nobody would read it
		}
		mine := registry.Vantage{
			Gate: l.name, Site: l.site, Step: step, Run: l.run, At: l.world.clock.Boot(), Asleep: l.asleep(),
			Sees: l.sees(), Sights: l.sights(v),
		}
		err := l.store.PutVantage(ctx, mine)
		var all []registry.Vantage
		if err == nil {
			all, err = l.store.Vantages(ctx)
		}
		if err != nil {
			if ctx.Err() == nil {
				l.log.Debug("what the gates see was not exchanged", "err", err) // the registry's outage is reported elsewhere
			}
			continue
		}
		l.heard(all)
	}
}

// heard takes the others' records; one that has not changed is not news.
func (l *lookout) heard(all []registry.Vantage) {
	now := l.world.clock.Boot()
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	for _, v := range all {
		old, known := l.others[v.Gate]
		if v.Gate == l.name || known && old.Run == v.Run && old.Step == v.Step {
			continue
		}
		if !known {
			// It may be a gate that is long gone: only a change shows that it lives.
			l.others[v.Gate] = seenGate{Vantage: v}
			continue
		}
		l.others[v.Gate] = seenGate{Vantage: v, seen: now}
	}
}

// sees lists the other sites whose vantage points this gate has seen lately.
func (l *lookout) sees() []tidegate.SiteName {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	return l.seesLocked()
}

func (l *lookout) seesLocked() []tidegate.SiteName {
	out := []tidegate.SiteName{}
	for _, g := range l.others {
		if g.seen != 0 && l.world.age(g.seen) <= vantageFresh {
			out = append(out, g.Site)
		}
	}
	for _, st := range l.world.standbys {
		if l.world.age(st.at) <= vantageFresh {
			out = append(out, tidegate.SiteName(st.report.GetSite()))
		}
	}
	out = slices.DeleteFunc(out, func(s tidegate.SiteName) bool { return s == l.site })
	slices.Sort(out)
	return slices.Compact(out)
}

// sights is what this gate sees of every service: the session of the writer's
// agent, and the synthetic client where there is one.
func (l *lookout) sights(v *registry.View) []registry.Sight {
	var out []registry.Sight
	for _, name := range v.ServiceNames() {
		if s, ok := l.session(v, name); ok {
			out = append(out, s)
		}
		if s, ok := l.probes.sight(name, l.now()); ok {
			out = append(out, s)
		}
	}
	return out
}

// writerOf returns who holds a service's streams; ok is false while nobody does,
// or not one and the same.
func writerOf(v *registry.View, name tidegate.ServiceName) (node tidegate.NodeName, site tidegate.SiteName, ok bool) {
	for i, s := range v.StreamsOf(name) {
		rec := v.Epochs[s.ID].Value
		if rec.ActiveEpoch == 0 || rec.Epoch != rec.ActiveEpoch || i > 0 && (rec.Active.Node != node || rec.Active.Site != site) {
			return "", "", false
		}
		node, site, ok = rec.Active.Node, rec.Active.Site, true
	}
	return node, site, ok
}

// session is how the writer's agent is heard by this gate. Only its reports are
// contacts: a connection to a machine that is gone stays open for long.
func (l *lookout) session(v *registry.View, name tidegate.ServiceName) (registry.Sight, bool) {
	node, _, ok := writerOf(v, name)
	if !ok {
		return registry.Sight{}, false
	}
	out := registry.Sight{Service: name, Kind: detect.Session, Detail: string(node)}
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	a := l.world.agents[node]
	if a == nil || a.report == nil {
		return out, true
	}
	silent := l.world.age(a.at)
	out.Silent = &silent
	switch {
	case silent <= sessionFresh:
		out.Outcome = detect.OK
	case a.sessions == 0:
		out.Outcome = detect.Failed
	}
	for _, s := range v.StreamsOf(name) {
		for _, r := range a.report.GetStreams() {
			if r.GetStreamId() == s.ID.String() && r.Head != nil && r.Released != nil && r.Durable != nil {
				out.Progress = append(out.Progress, detect.Progress{Stream: s.Name, Head: r.GetHead(), Released: r.GetReleased(), Durable: r.GetDurable()})
			}
		}
	}
	return out, true
}

// syntheticWrite names the progress of a prober among the streams.
const syntheticWrite = "synthetic-write"

// sight is what the synthetic client sees of a service. Any answer is a contact,
// also one that refuses: somebody lives there. That writes are refused shows as
// work that gets nowhere.
func (p *probes) sight(name tidegate.ServiceName, now time.Time) (registry.Sight, bool) {
	one := p.all[name]
	if one == nil {
		return registry.Sight{}, false
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	out := registry.Sight{Service: name, Kind: detect.Probe}
	switch {
	case one.good:
		out.Outcome = detect.OK
	case one.err != nil:
		out.Outcome, out.Detail = detect.Failed, one.err.Error()
	}
	if !one.lastAnswer.IsZero() {
		silent := max(now.Sub(one.lastAnswer), 0)
		out.Silent = &silent
	}
	if !one.lastGood.IsZero() && one.cfg.Level == probe.Write {
		out.Progress = []detect.Progress{{Stream: syntheticWrite, Head: 1, Durable: uint64(one.lastGood.UnixNano())}}
	}
	return out, true
}

// beacons is what a standby node hears of a service's writer, by its newest report.
func beacons(v *registry.View, name tidegate.ServiceName, node tidegate.NodeName, st *standbyState) (detect.Observation, bool) {
	o := detect.Observation{Point: detect.Point{Site: tidegate.SiteName(st.report.GetSite()), Name: string(node), Kind: detect.Beacon}, At: st.at}
	member := false
	for _, s := range v.StreamsOf(name) {
		one := reportOf(st.report, s.ID)
		if one == nil || v.Epochs[s.ID].Value.Config.Index(node) < 0 {
			continue
		}
		member = true
		if one.GetBeaconAge() == nil {
			continue
		}
		if d := one.GetBeaconAge().AsDuration(); o.Silent == nil || d < *o.Silent {
			o.Silent = &d
		}
		if one.BeaconHead != nil && one.BeaconReleased != nil {
			o.Progress = append(o.Progress, detect.Progress{Stream: s.Name, Head: one.GetBeaconHead(), Released: one.GetBeaconReleased(), Durable: one.GetCommitSeq()})
		}
	}
	if o.Silent != nil && *o.Silent <= sessionFresh {
		o.Outcome = detect.OK
	}
	return o, member
}

// observation turns a gate's sight into what the detector takes.
func (g *seenGate) observation(s registry.Sight) detect.Observation {
	company := len(g.Sees)
	return detect.Observation{
		Point: detect.Point{Site: g.Site, Name: g.Gate, Kind: s.Kind}, At: g.At, Outcome: s.Outcome, Silent: s.Silent,
		Asleep: g.Asleep, Company: &company, Progress: s.Progress,
	}
}

func (g *seenGate) message() *pb.Vantage {
	out := &pb.Vantage{Name: g.Gate, Site: string(g.Site)}
	for _, s := range g.Sights {
		o := &pb.Observation{Service: string(s.Service), Kind: string(s.Kind), Known: s.Silent != nil, Good: s.Outcome == detect.OK, Detail: s.Detail}
		if s.Silent != nil {
			o.LastGoodAge = durationMessage(*s.Silent)
		}
		out.Observations = append(out.Observations, o)
	}
	return out
}
