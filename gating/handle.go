package gating

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
)

// handle is a run as others see it.
type handle struct {
	id      tidegate.ID
	service tidegate.ServiceName
	kind    fence.PlanKind
	target  fence.Holder

	mu      sync.Mutex
	plan    fence.Plan
	view    *pb.Plan
	steps   []*pb.PlanStep // every change of a step so far, in order
	changed chan struct{}
	over    chan struct{} // closed when the run has ended
	err     error         // why the run ended before the plan did
	next    *handle       // the second part of the change, once it has begun
	said    string        // of the drain; see remark

	preempt   chan struct{}           // full when the run is asked to give way
	asked     chan fence.ControlEvent // what others want the run to know
	noAbort   string                  // why the plan cannot be called off any more
	noAborted chan struct{}           // closed when that is known
}

func newHandle(p fence.Plan, view *pb.Plan) *handle {
	return &handle{
		id: p.ID, service: p.Service, kind: p.Kind, target: p.Target, plan: p, view: proto.CloneOf(view),
		changed: make(chan struct{}), over: make(chan struct{}), asked: make(chan fence.ControlEvent), noAborted: make(chan struct{}),
		preempt: make(chan struct{}, 1),
	}
}

// giveWay asks the run to end in favour of another plan, if it has not been asked.
func (h *handle) giveWay() {
	select {
	case h.preempt <- struct{}{}:
	default:
	}
}

// poke steps the run with an event if it is ready to take one; what it tells can
// be found out otherwise too.
func (h *handle) poke(ev fence.ControlEvent) {
	select {
	case h.asked <- ev:
	default:
	}
}

// abort asks the run to call the plan off, and waits until it has ended or says
// that this cannot be done any more.
func (h *handle) abort(ctx context.Context, ev fence.Abort) error {
	select {
	case h.asked <- ev:
	case <-h.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-h.noAborted:
		h.mu.Lock()
		defer h.mu.Unlock()
		return &tidegate.Error{Op: "abort plan", Subject: h.id.String(), Class: tidegate.Refused, Err: errors.New(h.noAbort), Hint: "it goes on by itself: `tidegate plan show " + h.id.String() + "`"}
	case <-h.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *handle) refuseAbort(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.noAbort == "" {
		h.noAbort = why
		close(h.noAborted)
	}
}

// step returns how far the plan has come.
func (h *handle) step() fence.PlanStep {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.plan.Step
}

func (h *handle) setNext(n *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = n
}

// following returns the second part of the change; valid once over is closed.
func (h *handle) following() *handle {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.next
}

func (h *handle) publish(p fence.Plan, view *pb.Plan, steps []*pb.PlanStep) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.plan, h.view = p, proto.CloneOf(view)
	for _, s := range steps {
		h.steps = append(h.steps, proto.CloneOf(s))
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *handle) end(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	close(h.over)
}

// since returns the step changes after the first n, and a channel closed at the next one.
func (h *handle) since(n int) (steps []*pb.PlanStep, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.steps[n:], h.changed
}

// result returns how the run ended; valid once over is closed.
func (h *handle) result() (fence.Plan, *pb.Plan, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.plan, proto.CloneOf(h.view), h.err
}
