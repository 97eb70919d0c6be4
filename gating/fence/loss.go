package fence

import (
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// PredictLoss says what a failover of a stream with this record may claim,
// provided that R members that know what they had will answer.
func PredictLoss(r EpochRecord) LossStatement {
	g := r.Gate
	switch {
	case r.Restored:
		return LossStatement{Kind: LossUnknown, Why: "the registry has gone back in time and no writer has re-armed the gate since"}
	case r.handedOver() != nil:
		return LossStatement{Kind: LossZero, Why: "the writer has handed over"}
	case r.ActiveEpoch == 0:
		return LossStatement{Kind: LossZero, Why: "the stream never had a writer"}
	case g.State != GateArmed:
		return LossStatement{Kind: LossUnknown, Why: fmt.Sprintf("the gate was %s since %s", g.State, g.SinceSeq)}
	}
	b, err := g.Mode.Bounds(g.Bounds)
	switch {
	case err != nil:
		return LossStatement{Kind: LossUnknown, Why: err.Error()}
	case b == tidegate.Bounds{}:
		return LossStatement{Kind: LossZero, Why: "the gate was armed in sync"}
	case b.Records == tidegate.Unbounded && b.Bytes == tidegate.Unbounded && b.Window == tidegate.Unbounded:
		return LossStatement{Kind: LossUnknown, Why: "the gate was open"}
	}
	return LossStatement{Kind: LossAtMost, Bounds: b, Why: fmt.Sprintf("the gate was armed in %s", g.Mode)}
}

// first reports whether no writer can have come before the epoch of r, whose head
// has been chosen: the registry knows of none, nor does the log.
func (r EpochRecord) first() bool {
	if r.Restored || r.Unclean || r.Head.Seq > 0 {
		return false
	}
	if r.State == StateActive {
		return len(r.History) == 1
	}
	return r.ActiveEpoch == 0
}

// asChosen returns r with the gate as it stood when the head was chosen: the new
// writer may have changed it since, and a controller that takes the plan up late
// must not take that for what the old one was bound by.
func (r EpochRecord) asChosen() EpochRecord {
	r.Gate, r.Restored = r.Before, r.Restored || r.Forgot
	return r
}

// loss makes the statement for a stream whose head has been chosen. Everything
// that strengthens it is in the record, so that any controller says the same;
// evidence, which the plan carries, only weakens it. after bounds how long the
// old writer went on once the evidence had been given. (I23)
func (s *StreamPlan) loss(after time.Duration) LossStatement {
	chosen := s.Record.asChosen()
	r := &chosen
	switch {
	case r.Handover != nil && !r.Restored && r.Handover.Head == r.Head:
		// The holder itself said that there is nothing beyond: no quorum is needed to know it.
		return LossStatement{Kind: LossZero, Why: "the writer handed over at this head"}
	case r.first():
		return LossStatement{Kind: LossZero, Why: "the stream never had a writer"}
	}
	l := PredictLoss(*r)
	switch {
	case r.Restored:
	case r.Handover != nil:
		l = LossStatement{Kind: LossUnknown, Why: fmt.Sprintf("the writer handed over at %s, which is not the head that was chosen", r.Handover.Head)}
	case r.ActiveEpoch == 0:
		l = LossStatement{Kind: LossUnknown, Why: "the registry knows of no writer, and the nodes hold what one wrote"}
	}
	if r.Unclean {
		l.Kind, l.Unclean, l.Bounds = LossUnknown, true, tidegate.Bounds{}
		l.Why, l.Missing = "fewer members than the fence quorum answered that know what they had", slices.Clone(r.Missing)
	}
	if s.Evidence.ReleasedKnown {
		l.AtLeast = s.Evidence.Beyond
	}
	if l.Kind == LossZero && l.AtLeast > 0 || l.Kind == LossAtMost && l.AtLeast > l.Bounds.Records {
		// A beacon contradicts the proof: say the weaker thing.
		l.Kind, l.Bounds, l.Why = LossUnknown, tidegate.Bounds{}, "a beacon spoke of more released records beyond the chosen head"
	}
	if l.Kind != LossZero && s.Evidence.BlindKnown {
		l.Blind = s.Evidence.Blind + after
	}
	return l
}

// evidence joins what the nodes know, against the chosen log: of lower bounds
// the highest, of those who have as much; of upper bounds the lowest, of those
// whose log is the beginning of the chosen one.
func (s *StreamPlan) evidence(chosen FenceReply) (e Evidence) {
	for _, r := range s.Replies {
		epoch := s.Record.told(r.History, r.Durable.Seq).Last().Epoch
		if epoch != s.Record.told(chosen.History, chosen.Durable.Seq).Last().Epoch || r.Durable.Seq > chosen.Durable.Seq {
			continue
		}
		if r.Evidence.ReleasedKnown && r.Durable == chosen.Durable {
			e.ReleasedKnown, e.Beyond = true, max(e.Beyond, r.Evidence.Beyond)
		}
		if r.Evidence.BlindKnown && (!e.BlindKnown || r.Evidence.Blind < e.Blind) {
			e.BlindKnown, e.Blind = true, r.Evidence.Blind
		}
	}
	return e
}

// missing returns the members whose reply does not count, or comes from a log that
// has been cut below what it may have had.
func (s *StreamPlan) missing() []tidegate.NodeName {
	var out []tidegate.NodeName
	for _, m := range s.Record.Config.Members {
		if !slices.ContainsFunc(s.Replies, func(r FenceReply) bool { return r.Member.Node == m.Node && s.counts(r) && !s.Record.gaveUp(r.History) }) {
			out = append(out, m.Node)
		}
	}
	return out
}
