package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
)

// follower prints a change of role while it goes on; with no writer it only
// keeps the plan. Not safe for concurrent use.
type follower struct {
	w     io.Writer // nil prints nothing
	json  bool
	verb  string
	last  *pb.Plan
	steps map[string]*pb.PlanStep // newest of each name
	apply appliedAt
}

// errCutOff is not unreachable: the gate had taken the request, and asking
// another gate to start anew would make two plans of one.
var errCutOff = errors.New("connection lost after the plan was made")

// told is what a gate tells of a change of role: next returns false at the end,
// and err then says whether it is the end of the plan.
type told struct {
	next  func() (*pb.ChangeRoleResponse, bool)
	err   func() error
	close func() error
}

// ask begins a change of role at a gate.
type ask func(ctx context.Context, gate client) (told, error)

// asking asks for a change of role.
func asking(req *pb.ChangeRoleRequest) ask {
	return func(ctx context.Context, gate client) (told, error) {
		s, err := gate.ChangeRole(ctx, connect.NewRequest(req))
		if err != nil {
			return told{}, err
		}
		next := func() (*pb.ChangeRoleResponse, bool) {
			ok := s.Receive()
			return s.Msg(), ok
		}
		return told{next, s.Err, s.Close}, nil
	}
}

// run asks the gates in turn, follows the one that answers to the end, and
// returns what the plan came to.
func (f *follower) run(ctx context.Context, o *operator, service string, dry bool, begin ask) error {
	err := o.do(ctx, f.verb, service, func(gate client) error { return f.follow(ctx, gate, begin) })
	switch {
	case err != nil:
		f.rules(err)
		return err
	case f.last == nil:
		return &tidegate.Error{Op: f.verb, Class: tidegate.Transient, Err: errors.New("the gate ended the call without a plan")}
	case dry:
		return dryRunResult(f.verb, f.last)
	}
	return planResult(f.verb, f.last)
}

func (f *follower) follow(ctx context.Context, gate client, begin ask) error {
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan *pb.ChangeRoleResponse)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer cancel()
	stream, err := begin(ctx, gate)
	if err != nil {
		return err
	}
	receiving.Go(func() {
		defer close(events)
		for {
			m, ok := stream.next()
			if !ok {
				return
			}
			select {
			case events <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	if err := f.events(ctx, gate, events); err != nil {
		return err
	}
	err = stream.err()
	// An error that did not cross the wire is the connection's: the gate died, or the way to it.
	lost := err != nil && ctx.Err() == nil && (!connect.IsWireError(err) || cli.CodeOf(cli.Remote("", "", err)) == cli.Unreachable)
	if lost && f.last != nil {
		return connect.NewError(connect.CodeUnknown, fmt.Errorf("%w; it goes on at the gate, see `tidegate plan show %s`: %w", errCutOff, f.last.GetId(), err))
	}
	return errors.Join(err, stream.close())
}

// events prints what comes, and while nothing does how far the warm copy is.
func (f *follower) events(ctx context.Context, gate client, events <-chan *pb.ChangeRoleResponse) error {
	every := time.NewTicker(progressEvery)
	defer every.Stop()
	for {
		select {
		case m, ok := <-events:
			if !ok {
				return nil
			}
			if err := f.event(m); err != nil {
				return err
			}
		case <-every.C:
			f.progress(ctx, gate)
		}
	}
}

func (f *follower) event(m *pb.ChangeRoleResponse) error {
	f.keep(m)
	switch {
	case f.w == nil:
		return nil
	case f.json:
		return cli.PrintEvent(f.w, m)
	case m.GetPlan() != nil:
		writePlanHead(f.w, m.GetPlan())
		if m.GetPlan().GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DRY_RUN {
			writeExpected(f.w, m.GetPlan())
		}
	case m.GetStep() != nil:
		left, known := f.left()
		writeStep(f.w, m.GetStep(), left, known)
	case m.GetDone() != nil:
		writePlanEnd(f.w, m.GetDone())
	}
	return nil
}

func (f *follower) keep(m *pb.ChangeRoleResponse) {
	switch {
	case m.GetDone() != nil:
		f.last = m.GetDone()
	case m.GetPlan() != nil:
		f.last, f.steps = m.GetPlan(), map[string]*pb.PlanStep{}
		for _, s := range f.last.GetSteps() {
			f.steps[s.GetName()] = s
		}
	case m.GetStep() != nil && f.steps != nil:
		f.steps[m.GetStep().GetName()] = m.GetStep()
	}
}

// left is what the steps that have not ended are expected to take; ok is false
// when one of them has no expectation.
func (f *follower) left() (left time.Duration, ok bool) {
	for _, s := range f.steps {
		switch {
		case s.GetState() != "pending" && s.GetState() != "running":
		case s.GetExpected() == nil:
			return 0, false
		default:
			left += max(0, s.GetExpected().AsDuration()-s.GetTook().AsDuration())
		}
	}
	return left, len(f.steps) > 0
}

// rules prints the verdicts behind a refusal, unless a plan has shown them.
func (f *follower) rules(err error) {
	var refused *api.RulesError
	if f.w == nil || f.json || f.last != nil || !errors.As(err, &refused) {
		return
	}
	writeRules(f.w, refused.Rules)
}

// appliedAt is how much of a log the warm copy lacked at a moment.
type appliedAt struct {
	lag int64
	at  time.Time
	ok  bool
}

// progress tells how far the target's warm copy is, while that is what is
// waited for. Whatever cannot be told is left out: the plan itself goes on.
func (f *follower) progress(ctx context.Context, gate client) {
	if f.w == nil || f.json || f.last == nil || !f.applying() {
		return
	}
	st, err := gate.Status(ctx, connect.NewRequest(&pb.StatusRequest{Service: f.last.GetService()}))
	if err != nil {
		return
	}
	if lag, known := lagOf(st.Msg, f.last.GetTarget().GetNode()); known {
		f.lag(lag, time.Now())
	}
}

// lag prints how much is left, and how fast it went since it was last told.
func (f *follower) lag(lag int64, at time.Time) {
	now := appliedAt{lag, at, true}
	line := fmt.Sprintf("  %d records to apply", lag)
	if before := f.apply; before.ok && before.lag > lag {
		rate := float64(before.lag-lag) / now.at.Sub(before.at).Seconds()
		line += fmt.Sprintf(", %.0f a second, about %s to go", rate, cli.Span(time.Duration(float64(lag)/rate*float64(time.Second))))
	}
	f.apply = now
	fmt.Fprintln(f.w, line)
}

// applying reports whether the step under way waits for the warm copy.
func (f *follower) applying() bool {
	for name, s := range f.steps {
		if s.GetState() == "running" && len(name) > 1 && name[:2] == "F7" {
			return true
		}
	}
	return false
}

func lagOf(st *pb.StatusResponse, node string) (lag int64, known bool) {
	for _, s := range st.GetStandbys() {
		if s.GetNode().GetNode() != node {
			continue
		}
		for _, x := range s.GetReport().GetStreams() {
			if x.ApplyLagRecords == nil {
				return 0, false
			}
			lag, known = lag+x.GetApplyLagRecords(), true
		}
	}
	return lag, known
}
