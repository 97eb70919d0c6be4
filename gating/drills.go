package gating

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
)

// DrillReport is what a signed report of a drill says. Only the newest of a service
// and its newest pass are kept: all the rest stays in the report.
type DrillReport struct {
	registry.Drill

	Cluster  string
	Service  tidegate.ServiceName
	Previous string // hash of the report before it, hex; empty: it is the first
}

// drillAhead is how far the clock of whoever runs drills may be ahead of the gate's: a
// report from a future would keep drill-fresh true for as long as that is away.
const drillAhead = time.Minute

// drillPassed is the outcome that counts.
const drillPassed = "passed"

// drillPromotion is the phase that a drill which recovered something has measured.
const drillPromotion = "promote"

// recovered reports whether a drill recovered something. One whose fault was ridden out,
// and a plan that was only looked at, may have passed and show nothing of a takeover.
func recovered(d registry.Drill) bool {
	return slices.ContainsFunc(d.Phases, func(p registry.DrillPhase) bool { return p.Name == drillPromotion && p.Took != nil })
}

// RecordDrill implements OperatorService.
func (s *operatorService) RecordDrill(ctx context.Context, req *connect.Request[pb.RecordDrillRequest]) (*connect.Response[pb.RecordDrillResponse], error) {
	const op = "record drill"
	if s.reports == nil {
		return nil, &tidegate.Error{
			Op: op, Class: tidegate.Refused, Err: errors.New("this gate trusts no key that signs reports of drills"),
			Hint: "name the public keys under gate.drills.keys in the gate's file: `tidegate drill key show` prints one",
		}
	}
	r, err := s.reports(req.Msg.GetEnvelope())
	if err != nil {
		return nil, err
	}
	m := req.Msg
	switch {
	case m.GetAnew() && callerOf(ctx).Role != tidegate.RoleOperator:
		return nil, &tidegate.Error{Op: op, Subject: string(r.Service), Class: tidegate.Refused, Err: errors.New("only an operator may go on with another report than the next one")}
	case m.GetAnew() && m.GetReason() == "":
		return nil, misuse(op, string(r.Service), errors.New("want a reason for going on with another report than the next one"))
	}
	err = s.change(ctx, func() error {
		v, svc, _, err := s.ofService(ctx, op, string(r.Service), "")
		if err != nil {
			return err
		}
		old, known := v.Drills[svc.Value.Name]
		var on *registry.Drills
		if known {
			on = &old.Value
		}
		next, err := s.takeDrill(on, r, s.now(), m.GetAnew())
		if err != nil || next == nil {
			return err
		}
		e := s.entry(ctx, ActionDrill, r.Service, m.GetReason(), fact("report", "%s", r.ID), fact("number", "%d", r.Number),
			fact("level", "%s", r.Level), fact("outcome", "%s", r.Outcome), fact("hash", "%s", r.Hash), fact("key", "%s", r.Key))
		if m.GetAnew() {
			e.Detail = append(e.Detail, fact("anew", "report %d was on record", on.Heads()[r.Key].Number))
		}
		key := registry.DrillsKey(r.Service)
		// Against the service's revision, too: it may be on its way out.
		_, err = s.store.Commit(ctx, new(registry.Tx).Unchanged(registry.ServiceKey(r.Service), svc.Revision).Unchanged(key, old.Revision).Put(key, *next).Audit(e))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("drill on record", "service", r.Service, "report", r.ID, "level", r.Level, "outcome", r.Outcome, "actor", actor(ctx))
	return connect.NewResponse(&pb.RecordDrillResponse{Service: string(r.Service), Drill: drillMessage(&r.Drill)}), nil
}

// takeDrill decides what is on record once r is; nil with nil: it is there already. on
// is nil while nothing is. Reports follow one another from the first one on, so that one
// which failed can not be left out; with anew they need not, which is an operator's to say.
// Whoever runs drills with a key of his own has a chain of his own. What counts is the
// newest of all.
func (s *operatorService) takeDrill(on *registry.Drills, r DrillReport, now time.Time, anew bool) (*registry.Drills, error) {
	refuse := func(hint, format string, args ...any) error {
		return &tidegate.Error{Op: "record drill", Subject: string(r.Service) + "/" + r.ID, Class: tidegate.Refused, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	switch {
	case r.Cluster != s.cluster:
		return nil, refuse("", "it is of cluster %q, this is %q", r.Cluster, s.cluster)
	case r.Ended.IsZero():
		return nil, refuse("", "it does not say when it ended")
	case r.Ended.After(now.Add(drillAhead)):
		return nil, refuse("compare the clocks of the gate and of the machine that ran the drill", "it ended at %s, which is %s ahead of this gate's clock",
			r.Ended.UTC().Format(time.RFC3339), r.Ended.Sub(now).Round(time.Second))
	}
	next := registry.Drills{Levels: map[string]registry.LevelDrills{}, Chains: on.Heads()}
	const hint = "`tidegate drill list` shows the chain, of which the reports are taken in their order; an operator can go on with this one: `tidegate drill record --anew`"
	last, known := chainOf(next.Chains, r)
	switch {
	case known && r.Hash == last.Hash:
		return nil, nil //nolint:nilnil // nothing to be done, as documented
	case anew:
	case r.Number != last.Number+1:
		return nil, refuse(hint, "it is report %d of its chain, %d are on record: the next one is wanted", r.Number, last.Number)
	case r.Previous != last.Hash:
		return nil, refuse(hint, "it follows report %.12s, report %.12s is on record", r.Previous, last.Hash)
	case r.Ended.Before(last.Ended):
		return nil, refuse("a clock was set back; "+hint, "report %d of %s is on record, and ended later", last.Number, last.Ended.UTC().Format(time.RFC3339))
	}
	for key, head := range next.Chains {
		if known && head.Hash == last.Hash {
			next.Chains[key] = r.Drill
		}
	}
	next.Chains[r.Key] = r.Drill
	if on != nil {
		next.Last, next.Passed, next.Levels = on.Last, on.Passed, on.ByLevel()
	}
	// A report of another chain may come later than one that is newer.
	newest := func(d registry.Drill) bool { return anew || !r.Ended.Before(d.Ended) }
	level := next.Levels[r.Kind()]
	if newest(next.Last) {
		next.Last = r.Drill
	}
	if newest(level.Last) {
		level.Last = r.Drill
	}
	if r.Outcome == drillPassed && recovered(r.Drill) {
		if next.Passed == nil || newest(*next.Passed) {
			next.Passed = &r.Drill
		}
		if level.Passed == nil || newest(*level.Passed) {
			level.Passed = &r.Drill
		}
	}
	next.Levels[r.Kind()] = level
	return &next, nil
}

// chainOf returns the newest report on record of the chain that r is of: that of its key,
// or, of a key that has signed none, the one that r follows, for a key may be replaced.
// Without one r begins a chain: the zero report is what report 1 follows.
func chainOf(heads map[string]registry.Drill, r DrillReport) (last registry.Drill, known bool) {
	if last, known = heads[r.Key]; known {
		return last, true
	}
	for _, head := range heads {
		if r.Previous != "" && r.Previous == head.Hash {
			return head, true
		}
	}
	return registry.Drill{}, false
}

// drillAge returns the time since the newest pass on record; nil when there is none.
func (w *world) drillAge(v *registry.View, service tidegate.ServiceName) *time.Duration {
	d, ok := v.Drills[service]
	if !ok || d.Value.Passed == nil {
		return nil
	}
	age := w.clock.Wall().Sub(d.Value.Passed.Ended)
	if age > -drillAhead {
		age = max(0, age) // one that was further ahead when it was written down means that this clock was set back
	}
	return &age
}

func drillMessage(d *registry.Drill) *pb.DrillRecord {
	if d == nil {
		return nil
	}
	out := &pb.DrillRecord{
		Id: d.ID, Number: d.Number, Level: d.Level, Scenario: d.Scenario, Outcome: d.Outcome, Ended: timestamppb.New(d.Ended), Hash: d.Hash, Key: d.Key,
	}
	if d.RTA != nil {
		out.Rta = durationpb.New(*d.RTA)
	}
	return out
}
