package fence

import (
	"fmt"

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

// loss makes the statement for a stream whose head has been chosen. (I23)
func (s *StreamPlan) loss() LossStatement {
	l := predictLoss(s.Record.Gate, s.Record.Restored)
	for _, m := range s.Record.Config.Members {
		answered := false
		for _, r := range s.Replies {
			answered = answered || r.Member.Node == m.Node && s.counts(r)
		}
		if !answered {
			l.Missing = append(l.Missing, m.Node)
		}
	}
	if s.Record.Unclean {
		l.Kind, l.Unclean, l.Bounds = LossUnknown, true, tidegate.Bounds{}
		l.Why = fmt.Sprintf("only %d of the %d fence replies that prove a head", s.counting(), s.need())
	}
	if h := s.Record.Head.Seq; s.Released > h {
		l.AtLeast = int64(s.Released - h)
	}
	if l.Kind == LossZero && l.AtLeast > 0 {
		// A beacon contradicts the proof: say the weaker thing.
		l.Kind, l.Why = LossUnknown, "a beacon spoke of released batches beyond the chosen head"
	}
	return l
}
