package gating

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/fencewire"
	"github.com/tidegate/tidegate/gating/registry"
)

// ruleApplied is what a handover is refused by: the service that is to go on has
// come to another state than the writer's.
const ruleApplied = "handover-applied"

// The target is asked a few times for the digest of its state: its service tells
// it moments after it has applied the last batch, and clients are waiting.
const (
	appliedWait = 300 * time.Millisecond
	appliedPoll = 50 * time.Millisecond
)

// compareApplied compares the writer's state at its handover with the state that
// the target's services came to there. A difference is an error; what nobody can
// compare is told in unknown, and holds nothing up: the log is the same.
func (p parts) compareApplied(ctx context.Context, v *registry.View, recs []fence.EpochRecord) (unknown []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, appliedWait)
	defer cancel()
	for _, rec := range recs {
		name := v.Streams[rec.Stream].Value.Name
		if !rec.Handover.StateKnown {
			unknown = append(unknown, fmt.Sprintf("%s: the writer's service tells no digest of its state", name))
			continue
		}
		theirs := p.appliedAt(ctx, v, rec)
		switch {
		case theirs == nil:
			unknown = append(unknown, fmt.Sprintf("%s: %s does not tell the digest of its state there", name, rec.Target.Node))
		case theirs.StateDigest != rec.Handover.StateDigest:
			return nil, &tidegate.Error{
				Op: "hand over", Subject: string(name), Class: tidegate.Refused,
				Err: fmt.Errorf("%s: at %s, position %s, the state of %s is %s, and the writer's is %s: the same log has made different states",
					ruleApplied, rec.Handover.Head, rec.Handover.Position, rec.Target.Node, theirs.StateDigest, rec.Handover.StateDigest),
				Hint: "the writer goes on; find out why the service applies its log differently there, and let it replay from the beginning",
			}
		}
	}
	return unknown, nil
}

// appliedAt asks the target until it tells the state it came to at a handover;
// nil when it does not in time.
func (p parts) appliedAt(ctx context.Context, v *registry.View, rec fence.EpochRecord) *fence.Handover {
	c, err := p.standbys.client(v, rec.Target.Node)
	if err != nil {
		return nil // nobody to ask: a target that is no standby node
	}
	tick := time.NewTicker(appliedPoll)
	defer tick.Stop()
	for {
		r, err := c.Status(ctx, connect.NewRequest(&pb.StandbyServiceStatusRequest{}))
		if err == nil {
			i := slices.IndexFunc(r.Msg.GetStreams(), func(s *pb.StandbyStream) bool { return s.GetStreamId() == api.IDText(rec.Stream) })
			if i >= 0 {
				h, err := fencewire.Handover(r.Msg.GetStreams()[i].GetHandoverApplied())
				if err == nil && h != nil && h.StateKnown && h.Head == rec.Handover.Head && h.Position == rec.Handover.Position {
					return h
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// notApplied calls a switchover off whose handover was refused, if this gate
// carries it out; another one's ends at its deadline.
func (c *controller) notApplied(ctx context.Context, s tidegate.ServiceName, why error) {
	h := c.runningPlan(s)
	if h == nil || h.kind != fence.KindSwitchover {
		return
	}
	if err := h.abort(ctx, fence.Abort{Actor: string(tidegate.RoleGate) + "/" + c.name, Reason: why.Error()}); err != nil {
		c.log.Warn("switchover not called off", "service", s, "plan", h.id, "err", err)
	}
}

// notCompared lets the plan say what of a handover nobody could compare.
func (c *controller) notCompared(s tidegate.ServiceName, unknown []string) {
	if h := c.runningPlan(s); h != nil && h.kind == fence.KindSwitchover && len(unknown) > 0 {
		h.remark("states not compared: " + strings.Join(unknown, "; "))
	}
}

// remark is said beside the step of the drain from the next record of the plan on.
func (h *handle) remark(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = text
}

// showRemark puts what was remarked beside its step.
func (h *handle) showRemark(v *pb.Plan) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range v.GetSteps() {
		if h.said != "" && strings.HasPrefix(s.GetName(), "S2") {
			s.Detail = h.said
		}
	}
}
