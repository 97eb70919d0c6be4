package gating

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

const (
	// forecastOf is how many failovers a forecast rests on: their median shrugs
	// off one that met a slow disk, and follows a change after three.
	forecastOf = 5
	// forecastDepth is how far back they are looked for among a service's plans.
	forecastDepth = 100
)

// forecast is what each step of a kind of plan took lately, by its name.
type forecast struct {
	took  map[string]time.Duration
	plans int // that it rests on
}

// forecastFrom takes the medians of the newest finished plans of a kind.
func forecastFrom(recs []planRecord, kind fence.PlanKind) forecast {
	all, n := map[string][]time.Duration{}, 0
	for _, r := range recs {
		if n == forecastOf {
			break
		}
		if r.plan.Kind != kind || r.plan.Step != fence.StepDone {
			continue
		}
		n++
		for _, s := range r.view.GetSteps() {
			if s.GetTook() != nil {
				all[s.GetName()] = append(all[s.GetName()], s.GetTook().AsDuration())
			}
		}
	}
	out := forecast{took: map[string]time.Duration{}, plans: n}
	for name, took := range all {
		slices.Sort(took)
		out.took[name] = took[len(took)/2]
	}
	return out
}

// fill replaces the expected time of each step that the forecast knows.
func (f forecast) fill(v *pb.Plan) {
	for _, s := range v.GetSteps() {
		if d, ok := f.took[s.GetName()]; ok {
			s.Expected, s.ExpectedFrom = durationpb.New(d), fmt.Sprintf("median of the last %d plans of this kind", f.plans)
		}
	}
}

// total sums the steps of a failover.
func (f forecast) total() (sum time.Duration) {
	for _, s := range stepsOf(fence.KindFailover) {
		if d, ok := f.took[s.name]; ok {
			sum += d
		} else {
			sum += s.expected
		}
	}
	return sum
}

// forecasts keeps every service's forecast in memory: status and metrics ask
// for it at any time, also while the registry is down.
type forecasts struct {
	mu sync.Mutex // not held over I/O
	of map[tidegate.ServiceName]forecastAt
}

type forecastAt struct {
	plan tidegate.ID // the newest one that it covers
	f    forecast
}

func newForecasts() *forecasts { return &forecasts{of: map[tidegate.ServiceName]forecastAt{}} }

func (f *forecasts) get(s tidegate.ServiceName) forecast {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.of[s].f
}

// refresh brings the forecasts to what the tables show: plans are read only of
// services whose newest change of writer is one that has not been looked at.
func (p parts) refreshForecasts(ctx context.Context, v *registry.View) error {
	for _, name := range v.ServiceNames() {
		newest := newestPlan(v, name)
		p.forecasts.mu.Lock()
		seen, ok := p.forecasts.of[name]
		p.forecasts.mu.Unlock()
		if ok && seen.plan == newest {
			continue
		}
		recs, err := p.plans(ctx, name, "", forecastDepth)
		if err != nil {
			return err
		}
		next := forecastAt{f: forecastFrom(recs, fence.KindFailover)}
		if !slices.ContainsFunc(recs, func(r planRecord) bool { return r.plan.ID == newest && !r.plan.Finished() }) {
			next.plan = newest
		} // else it is looked at again, until the plan has ended
		p.forecasts.mu.Lock()
		p.forecasts.of[name] = next
		p.forecasts.mu.Unlock()
	}
	return nil
}

// newestPlan returns the plan that wrote a service's records last.
func newestPlan(v *registry.View, s tidegate.ServiceName) (id tidegate.ID) {
	for _, st := range v.StreamsOf(s) {
		if p := v.Epochs[st.ID].Value.Plan; p.String() > id.String() {
			id = p
		}
	}
	return id
}

// plans reads plans of a service, or of all of them, newest first. A record that
// cannot be read is an error: to skip it could mean to forget a half-done
// change of writer.
func (p parts) plans(ctx context.Context, of tidegate.ServiceName, before string, limit int) ([]planRecord, error) {
	raw, err := p.store.Plans(ctx, of, before, limit)
	if err != nil {
		return nil, err
	}
	out := make([]planRecord, 0, len(raw))
	for _, one := range raw {
		rec, err := readPlan(one.Record)
		if err != nil {
			return nil, &tidegate.Error{Op: "read plan", Subject: one.ID, Class: tidegate.Corrupt, Err: err}
		}
		rec.at = one.Revision
		out = append(out, rec)
	}
	return out, nil
}

func readPlan(b json.RawMessage) (rec planRecord, err error) {
	err = rec.UnmarshalJSON(b)
	return rec, err
}

// plansKept is how many plans of a service the registry keeps. Each start of an
// agent is one, each refusal of a start too: without a limit an agent that asks
// in vain would fill the registry.
const plansKept = 1000

// prune deletes what is beyond the limit, oldest first, and never a plan that
// has not ended.
func (c *controller) prune(ctx context.Context, lead *registry.Leadership, s tidegate.ServiceName) {
	n, err := c.store.PrunePlans(ctx, lead, s, plansKept, func(b json.RawMessage) (bool, error) {
		rec, err := readPlan(b)
		return rec.plan.Finished(), err
	})
	switch {
	case err != nil && ctx.Err() == nil:
		c.log.Warn("old plans not pruned", "service", s, "err", err) // the next plan tries again
	case n > 0:
		c.log.Debug("old plans pruned", "service", s, "plans", n)
	}
}
