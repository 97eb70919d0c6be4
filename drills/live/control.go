package live

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/pki"
)

// lookTimeout bounds what a gate may take to say how things are: one that needs longer
// gives no answer.
const lookTimeout = time.Second

// callTimeout bounds other short calls.
const callTimeout = 10 * time.Second

// Control is what a drill asks gates for. Its methods may be called concurrently.
type Control interface {
	// Look asks every gate how things are. What nobody says is in the sight as that.
	Look(ctx context.Context) Sight
	// Change asks for a change of role and follows it to its end; saw is called with each
	// of its steps as it is told, and with the plan when it is drawn. The plan is nil where
	// none was made. A refusal by rules is an [api.RulesError].
	Change(ctx context.Context, req *pb.ChangeRoleRequest, saw func(*pb.Plan, *pb.PlanStep)) (*pb.Plan, error)
	// Made is the newest plan that a request has made, at its end; nil: none but before has
	// its kind and reason. It is for requests whose answer was lost.
	Made(ctx context.Context, req *pb.ChangeRoleRequest, before string) (*pb.Plan, error)
	// Plan is a plan as it is on record now.
	Plan(ctx context.Context, id string) (*pb.Plan, error)
	// Running is the change of role of a service that has not ended, or the drill of it that a
	// worker has taken; empty: neither.
	Running(ctx context.Context, service tidegate.ServiceName) (string, error)
	// Identity is whom the drill acts as.
	Identity() tidegate.Identity
}

// Gates are the gates of a drill's file.
type Gates struct {
	addrs []string
	creds *pki.Credentials
	http  *http.Client
}

var _ Control = (*Gates)(nil)

// NewGates returns them; it dials nobody yet. A certificate of another role than operator
// is refused: it could not move a service.
func NewGates(o *Operator) (*Gates, error) {
	creds, err := pki.Load(o.TLS.Cert, o.TLS.Key, o.TLS.CA)
	if err != nil {
		return nil, err
	}
	if id := creds.Identity(); id.Role != tidegate.RoleOperator {
		return nil, &tidegate.Error{
			Op: "drill as", Subject: id.String(), Class: tidegate.Refused, Err: fmt.Errorf("it is of role %s, and moving the live service takes role %s", id.Role, tidegate.RoleOperator),
			Hint: "level L1 runs under a drill's own certificate; L2 and above under an operator's",
		}
	}
	return &Gates{addrs: o.Gates, creds: creds, http: api.NewHTTPClient(creds.ClientTLS(pki.Expect{Role: tidegate.RoleGate}))}, nil
}

// Close ends the connections that wait for the next call.
func (g *Gates) Close() { g.http.CloseIdleConnections() }

// Identity implements [Control].
func (g *Gates) Identity() tidegate.Identity { return g.creds.Identity() }

func (g *Gates) client(addr string) tidegatev1connect.OperatorServiceClient {
	return tidegatev1connect.NewOperatorServiceClient(g.http, "https://"+addr)
}

// Look implements [Control].
func (g *Gates) Look(ctx context.Context) Sight {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	type said struct {
		status   *pb.StatusResponse
		findings []*pb.Finding
		err      error
	}
	all := make([]said, len(g.addrs))
	var asking sync.WaitGroup
	for i, addr := range g.addrs {
		asking.Go(func() {
			st, err := g.client(addr).Status(ctx, connect.NewRequest(&pb.StatusRequest{}))
			if err != nil {
				all[i].err = api.FromError("look at", addr, err)
				return
			}
			all[i].status = st.Msg
			if d, err := g.client(addr).Doctor(ctx, connect.NewRequest(&pb.DoctorRequest{})); err == nil {
				all[i].findings = d.Msg.GetFindings()
			}
		})
	}
	asking.Wait()
	out := Sight{Silent: map[string]string{}}
	for i, one := range all {
		switch {
		case one.status != nil && out.Status == nil:
			out.Status, out.Findings = one.status, one.findings
		case one.err != nil && !leadsElsewhere(one.err):
			out.Silent[g.addrs[i]] = one.err.Error()
		}
	}
	return out
}

// leadsElsewhere reports whether a gate has answered that another one leads: it is alive.
func leadsElsewhere(err error) bool {
	return tidegate.HintOf(err) != "" && tidegate.ClassOf(err) == tidegate.Transient
}

// each calls one gate after the other until one answers, whatever the answer is.
func (g *Gates) each(ctx context.Context, op, subject string, call func(tidegatev1connect.OperatorServiceClient) error) error {
	var silent []error
	for _, addr := range g.addrs {
		err := call(g.client(addr))
		if err == nil {
			return nil
		}
		e := api.FromError(op, subject, err)
		if tidegate.ClassOf(e) != tidegate.Transient || ctx.Err() != nil {
			return e
		}
		silent = append(silent, fmt.Errorf("gate %s: %w", addr, e))
	}
	return &tidegate.Error{Op: op, Subject: subject, Class: tidegate.Transient, Err: errors.Join(silent...), Hint: "check that a gate runs and can be reached"}
}

// Plan implements [Control].
func (g *Gates) Plan(ctx context.Context, id string) (p *pb.Plan, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = g.each(ctx, "read plan", id, func(c tidegatev1connect.OperatorServiceClient) error {
		res, err := c.ShowPlan(ctx, connect.NewRequest(&pb.ShowPlanRequest{Id: id}))
		if err == nil {
			p = res.Msg.GetPlan()
		}
		return err
	})
	return p, err
}

// Running implements [Control].
func (g *Gates) Running(ctx context.Context, service tidegate.ServiceName) (what string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = g.each(ctx, "see what runs of", string(service), func(c tidegatev1connect.OperatorServiceClient) error {
		res, err := c.ListPlans(ctx, connect.NewRequest(&pb.ListPlansRequest{Service: string(service), Limit: plansLooked}))
		if err != nil {
			return err
		}
		drills, err := c.DrillStatus(ctx, connect.NewRequest(&pb.DrillStatusRequest{Service: string(service)}))
		if err != nil {
			return err
		}
		what = ""
		for _, one := range drills.Msg.GetServices() {
			if d := one.GetRunning(); d != nil {
				what = fmt.Sprintf("drill %s by worker %s", d.GetClaim(), d.GetWorker())
			}
		}
		for _, p := range res.Msg.GetPlans() {
			if p.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_RUNNING {
				what = "plan " + p.GetId()
			}
		}
		return nil
	})
	return what, err
}

// Made implements [Control].
func (g *Gates) Made(ctx context.Context, req *pb.ChangeRoleRequest, before string) (made *pb.Plan, err error) {
	asking, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = g.each(asking, "find plan of", req.GetService(), func(c tidegatev1connect.OperatorServiceClient) error {
		res, err := c.ListPlans(asking, connect.NewRequest(&pb.ListPlansRequest{Service: req.GetService(), Limit: plansLooked}))
		if err != nil {
			return err
		}
		made = madeBy(req, res.Msg.GetPlans(), before)
		return nil
	})
	if err != nil || made == nil {
		return nil, err
	}
	return g.follow(ctx, made)
}

// madeBy is the newest of some plans, newest first, that a request has made.
func madeBy(req *pb.ChangeRoleRequest, plans []*pb.Plan, before string) *pb.Plan {
	for _, p := range plans {
		switch {
		case p.GetId() == before:
			return nil // what is older is not of this request
		case p.GetReason() == req.GetReason() && p.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_REFUSED:
			return p
		}
	}
	return nil
}

// plansLooked is how many of the newest plans are looked at for one that runs.
const plansLooked = 10

// Change implements [Control]. A gate that goes away in the middle leaves the plan to
// another one: it is then followed on record.
func (g *Gates) Change(ctx context.Context, req *pb.ChangeRoleRequest, saw func(*pb.Plan, *pb.PlanStep)) (plan *pb.Plan, err error) {
	err = g.each(ctx, "change role of", req.GetService(), func(c tidegatev1connect.OperatorServiceClient) error {
		s, err := c.ChangeRole(ctx, connect.NewRequest(req))
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }() // what it had to say was read
		for s.Receive() {
			switch m := s.Msg(); {
			case m.GetDone() != nil:
				plan = m.GetDone()
			case m.GetPlan() != nil:
				plan = m.GetPlan()
				saw(plan, nil)
			case m.GetStep() != nil:
				saw(nil, m.GetStep())
			}
		}
		if err := s.Err(); err != nil && plan == nil {
			return err
		}
		return nil
	})
	if err != nil || plan == nil || req.GetDryRun() {
		return plan, err
	}
	return g.follow(ctx, plan)
}

// follow waits for the end of a plan.
func (g *Gates) follow(ctx context.Context, plan *pb.Plan) (*pb.Plan, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for plan.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_RUNNING {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return plan, fmt.Errorf("plan %s goes on at the gate: %w", plan.GetId(), context.Cause(ctx))
		}
		if now, err := g.Plan(ctx, plan.GetId()); err == nil { // who does not answer now may do so later
			plan = now
		}
	}
	return plan, nil
}

// overrides are the configured ones, as they are asked for.
func (o *Operator) overrides() (out []*pb.RuleOverride) {
	for _, rule := range slices.Sorted(maps.Keys(o.Overrides)) {
		out = append(out, &pb.RuleOverride{Rule: rule, Reason: o.Overrides[rule]})
	}
	return out
}
