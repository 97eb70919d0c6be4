package gating

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/schedule"
	"github.com/tidegate/tidegate/gating/registry"
)

// rehearsals is what a gate knows of drills beside the registry: what workers have told
// it since it began to lead, and timetables that it has read.
type rehearsals struct {
	mu     sync.Mutex // never held over I/O
	heard  map[string]heard
	asked  map[tidegate.ServiceName]asking
	tables map[string]*schedule.Timetable // by policy
}

// heard is a worker's newest word of a claim.
type heard struct {
	at   tidegate.Instant // or when this gate began to listen
	step string
	bare tidegate.Instant // since when the service has not been protected, without a break; 0: it is
}

type asking struct {
	worker string
	at     tidegate.Instant
}

func newRehearsals() *rehearsals {
	return &rehearsals{heard: map[string]heard{}, asked: map[tidegate.ServiceName]asking{}, tables: map[string]*schedule.Timetable{}}
}

// listen begins anew: a leader gives every worker the whole time that it may be silent.
func (r *rehearsals) listen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.heard)
}

// hear notes a worker's word.
func (r *rehearsals) hear(claim, step string, at tidegate.Instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard[claim] = heard{at: at, step: step, bare: r.heard[claim].bare}
}

// bareFor notes whether a claim's service is without protection now, and returns for how
// long it has been.
func (r *rehearsals) bareFor(claim string, bare bool, now tidegate.Instant) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.heard[claim]
	switch {
	case !bare:
		h.bare = 0
	case h.bare == 0:
		h.bare = now
	}
	r.heard[claim] = h
	if h.bare == 0 {
		return 0
	}
	return time.Duration(now - h.bare)
}

// of returns the newest word of a claim. One that this gate has not heard of is listened
// for from now on.
func (r *rehearsals) of(claim string, now tidegate.Instant) heard {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.heard[claim]
	if !ok {
		h = heard{at: now}
		r.heard[claim] = h
	}
	return h
}

// keep forgets claims that are not held any more.
func (r *rehearsals) keep(held []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.heard {
		if !slices.Contains(held, id) {
			delete(r.heard, id)
		}
	}
}

// askedBy notes who wants to rehearse a service.
func (r *rehearsals) askedBy(service tidegate.ServiceName, worker string, at tidegate.Instant) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[service] = asking{worker: worker, at: at}
}

func (r *rehearsals) asker(service tidegate.ServiceName) (asking, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.asked[service]
	return a, ok
}

// tablesMax bounds how many timetables are kept.
const tablesMax = 1000

// table reads a service's policy, once. One on record was found good when it was set; one
// of another version may not be.
func (r *rehearsals) table(s registry.Schedule) (*schedule.Timetable, error) {
	p := s.InForce()
	key, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tables[string(key)]; t != nil {
		return t, nil
	}
	t, err := schedule.New(p)
	if err == nil {
		if len(r.tables) >= tablesMax {
			clear(r.tables)
		}
		r.tables[string(key)] = t
	}
	return t, err
}

// verdicts are the outcomes of drills that came to their end: the service was rehearsed.
var verdicts = []string{"passed", "partial", "failed"}

// Other ways in which an occurrence ends.
const (
	drillInterrupted = "interrupted"
	drillRefused     = "refused"
	drillMissed      = "missed"
)

// ran is when the newest drill of a service came to a verdict, by its schedule and by the
// reports on record, also of drills that somebody ran by hand, which must have recovered
// something as the schedule's do.
func ran(v *registry.View, service tidegate.ServiceName) time.Time {
	at := v.Schedules[service].Value.Ran
	for _, d := range v.Drills[service].Value.Levels {
		for _, r := range []*registry.Drill{&d.Last, d.Passed} {
			if r != nil && recovered(*r) && slices.Contains(verdicts, r.Outcome) && r.Ended.After(at) {
				at = r.Ended
			}
		}
	}
	return at
}

// due decides about a service's drills. Its error says that the policy on record cannot
// be read.
func (p parts) due(v *registry.View, service tidegate.ServiceName, against []string) (schedule.Decision, error) {
	s := v.Schedules[service].Value
	t, err := p.rehearsals.table(s)
	if err != nil {
		return schedule.Decision{}, &tidegate.Error{
			Op: "read schedule of", Subject: string(service), Class: tidegate.Permanent, Err: err,
			Hint: "another version wrote it; set it anew: `tidegate drill schedule " + string(service) + "`",
		}
	}
	f := schedule.Facts{Ran: ran(v, service), Running: s.Claim != nil, Against: against}
	return t.Decide(string(service), s.State, f, p.world.clock.Wall()), nil
}

// against is why no drill of a service may begin now. Only the leader knows.
func (c *controller) against(v *registry.View, service tidegate.ServiceName) []string {
	var out []string
	svc := v.Services[service].Value
	if svc.Frozen {
		out = append(out, "the service is frozen: "+first(svc.Reason, "no reason was given"))
	}
	if h := c.runningPlan(service); h != nil {
		out = append(out, fmt.Sprintf("%s %s is under way", h.kind, h.id))
	}
	if r, ok := v.Routes[service]; ok {
		settle := v.Schedules[service].Value.InForce().Settle
		if ago := c.world.clock.Wall().Sub(r.Value.Since); ago >= 0 && ago < settle {
			out = append(out, fmt.Sprintf("the writer changed %s ago, want at least %s", ago.Round(time.Second), settle))
		}
	}
	streams := v.StreamsOf(service)
	if len(streams) == 0 {
		out = append(out, "the service has no streams")
	}
	bare := c.bare(v, service)
	if len(bare) > 0 {
		return append(out, bare...)
	}
	for _, st := range streams {
		if s := c.streamStatus(v, svc, st); s.GetUnderProtected() {
			out = append(out, fmt.Sprintf("the service is less protected than is wanted: %s: %s", st.Name, strings.Join(s.GetReasons(), ", ")))
		}
	}
	return out
}

// bare is why a service is not protected now, or its clients wait for the standby site,
// whose disks a drill would keep busy besides; empty: it is, and they do not.
func (c *controller) bare(v *registry.View, service tidegate.ServiceName) (out []string) {
	for _, st := range v.StreamsOf(service) {
		s := c.streamStatus(v, v.Services[service].Value, st)
		safe := s.GetVerdict() == pb.Verdict_VERDICT_SAFE || s.GetVerdict() == pb.Verdict_VERDICT_AT_RISK
		if !safe || s.GetWriter().GetBlocked() {
			out = append(out, fmt.Sprintf("the service is not protected: %s: %s", st.Name, strings.Join(s.GetReasons(), ", ")))
		}
	}
	return out
}

// drillsEvery is how often a leader looks at schedules and claims; a part of the time that
// a worker may be silent.
func (c *controller) drillsEvery() time.Duration { return max(c.silence/10, 20*time.Millisecond) }

// keepSchedules brings schedules forward while l leads: it puts missed occurrences on
// record, and ends what silent workers have taken.
func (c *controller) keepSchedules(ctx context.Context, l *registry.Leadership) error {
	tick := time.NewTicker(c.drillsEvery())
	defer tick.Stop()
	for {
		if v, reachable, _ := c.world.current(); reachable {
			var held []string
			for _, name := range v.ServiceNames() {
				if claim := v.Schedules[name].Value.Claim; claim != nil {
					held = append(held, claim.ID)
				}
				if err := c.keepSchedule(ctx, l, v, name); err != nil && ctx.Err() == nil {
					c.log.Debug("schedule not brought forward, trying again", "service", name, "err", err)
				}
			}
			c.rehearsals.keep(held)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// keepSchedule brings one schedule forward.
func (c *controller) keepSchedule(ctx context.Context, l *registry.Leadership, v *registry.View, service tidegate.ServiceName) error {
	old := v.Schedules[service]
	next, e, err := c.forward(ctx, v, service)
	if err != nil || next == nil {
		return err
	}
	key := registry.ScheduleKey(service)
	tx := new(registry.Tx).Leading(l).Unchanged(registry.ServiceKey(service), v.Services[service].Revision).Unchanged(key, old.Revision).Put(key, *next)
	if e != nil {
		tx.Audit(*e)
	}
	if _, err = c.store.Commit(ctx, tx); err == nil && e != nil {
		c.log.Warn("drill did not come to its end", "service", service, "action", e.Action, "why", e.Reason)
	}
	return err
}

// forward is the schedule as it is to be on record, and what the audit trail says of that;
// nil: as it is.
func (c *controller) forward(ctx context.Context, v *registry.View, service tidegate.ServiceName) (*registry.Schedule, *registry.AuditEntry, error) {
	s := v.Schedules[service].Value
	now := c.world.clock.Wall().UTC()
	if s.Claim != nil {
		boot := c.world.clock.Boot()
		silent := time.Duration(boot - c.rehearsals.of(s.Claim.ID, boot).at)
		if silent <= c.silence {
			return nil, nil, nil
		}
		claim := *s.Claim
		end := registry.DrillEnd{
			Occurrence: claim.Occurrence, Outcome: drillInterrupted, At: now, Worker: claim.Worker, Claim: claim.ID,
			Why: fmt.Sprintf("worker %s was silent for %s", claim.Worker, silent.Round(time.Millisecond)),
		}
		s = s.Finish(end, false)
		if claim.Abort == nil {
			s.State = s.State.Undone(now)
		}
		e := c.drillEntry(ctx, ActionDrillLapse, service, end)
		return &s, &e, nil
	}
	d, err := c.due(v, service, c.against(v, service))
	if err != nil || d.State == s.State {
		return nil, nil, err
	}
	s.State = d.State
	if d.Missed == "" {
		return &s, nil, nil
	}
	end := registry.DrillEnd{Occurrence: d.State.Taken, Outcome: drillMissed, Why: d.Missed, At: now}
	s.Ended = &end
	e := c.drillEntry(ctx, ActionDrillMiss, service, end)
	return &s, &e, nil
}

// drillEntry tells how an occurrence ended.
func (p parts) drillEntry(ctx context.Context, action string, service tidegate.ServiceName, end registry.DrillEnd) registry.AuditEntry {
	e := p.entry(ctx, action, service, end.Why, fact("occurrence", "%s", end.Occurrence.UTC().Format(time.RFC3339)), fact("outcome", "%s", end.Outcome))
	if end.Claim != "" {
		e.Detail = append(e.Detail, fact("worker", "%s", end.Worker), fact("claim", "%s", end.Claim))
	}
	return e
}
