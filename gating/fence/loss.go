package fence

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
)

// predictLoss says what may be claimed from the gate's record alone, given that
// R members will answer.
func predictLoss(g GateRecord, restored bool) LossStatement {
	switch {
	case restored:
		return LossStatement{Kind: LossUnknown, Why: "the registry has gone back in time and no writer has re-armed the gate since"}
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

// PredictLoss says what a failover of a stream with this record may claim,
// provided that R members that know what they had will answer.
func PredictLoss(r EpochRecord) LossStatement { return predictLoss(r.Gate, r.Restored) }

// loss makes the statement for a stream whose head has been chosen. Everything
// that decides is in the record, so that any controller says the same. (I23)
func (s *StreamPlan) loss() LossStatement {
	r := &s.Record
	l := predictLoss(r.Gate, r.Restored)
	l.Missing = slices.Clone(r.Missing)
	if r.Unclean {
		l.Kind, l.Unclean, l.Bounds = LossUnknown, true, tidegate.Bounds{}
		l.Why = "fewer members than the fence quorum answered that know what they had"
	}
	if s.Released > r.Head.Seq {
		l.AtLeast = int64(s.Released - r.Head.Seq)
	}
	if l.Kind == LossZero && l.AtLeast > 0 {
		// A beacon contradicts the proof: say the weaker thing.
		l.Kind, l.Why = LossUnknown, "a beacon spoke of released batches beyond the chosen head"
	}
	return l
}

// missing returns the members whose reply does not count.
func (s *StreamPlan) missing() []tidegate.NodeName {
	var out []tidegate.NodeName
	for _, m := range s.Record.Config.Members {
		if !slices.ContainsFunc(s.Replies, func(r FenceReply) bool { return r.Member.Node == m.Node && s.counts(r) }) {
			out = append(out, m.Node)
		}
	}
	return out
}
