package fence

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

func TestLossIsWeakenedByEvidence(t *testing.T) {
	bounds := tidegate.Bounds{Records: 10, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}
	blind := Evidence{ReleasedKnown: true, BlindKnown: true, Blind: time.Second}
	beyond := func(n int64) Evidence { return Evidence{ReleasedKnown: true, Beyond: n} }
	for _, tt := range []struct {
		name  string
		mode  tidegate.Mode
		ev    Evidence
		kind  LossKind
		least int64
		blind time.Duration
	}{
		{"sync, nothing beyond", tidegate.ModeSync, blind, LossZero, 0, 0},
		{"sync, refuted", tidegate.ModeSync, beyond(1), LossUnknown, 1, 0},
		{"bounded, within", tidegate.ModeBounded, beyond(10), LossAtMost, 10, 0},
		{"bounded, refuted", tidegate.ModeBounded, beyond(11), LossUnknown, 11, 0},
		{"bounded, blind", tidegate.ModeBounded, blind, LossAtMost, 0, 1500 * time.Millisecond},
		{"open, nothing known", tidegate.ModeOpen, Evidence{}, LossUnknown, 0, 0},
		{"open", tidegate.ModeOpen, Evidence{ReleasedKnown: true, Beyond: 7, BlindKnown: true, Blind: time.Second}, LossUnknown, 7, 1500 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := StreamPlan{Evidence: tt.ev, Record: EpochRecord{ActiveEpoch: 1, Before: GateRecord{State: GateArmed, Mode: tt.mode, Bounds: bounds}}}
			l := s.loss(500 * time.Millisecond)
			if l.Kind != tt.kind || l.AtLeast != tt.least || l.Blind != tt.blind {
				t.Errorf("%s, at least %d, blind for %s (%s); want %s, %d, %s", l.Kind, l.AtLeast, l.Blind, l.Why, tt.kind, tt.least, tt.blind)
			}
		})
	}
}

// A controller that takes the plan up once the epoch is open sees a record whose
// gate the new writer may have armed.
func TestLossRestsOnTheGateThatWas(t *testing.T) {
	s := StreamPlan{Record: EpochRecord{
		State: StateActive, ActiveEpoch: 2, Epoch: 2, Head: tidegate.LogPos{Epoch: 1, Seq: 4},
		Before: GateRecord{State: GateDegraded, Mode: tidegate.ModeSync}, Gate: GateRecord{State: GateArmed, Mode: tidegate.ModeSync},
	}}
	if l := s.loss(0); l.Kind != LossUnknown {
		t.Errorf("the gate was degraded, and the statement says %+v", l)
	}
	s.Record.Before, s.Record.Forgot = s.Record.Gate, true
	if l := s.loss(0); l.Kind != LossUnknown {
		t.Errorf("the registry had gone back, and the statement says %+v", l)
	}
}

func TestMissingMembersAreNamedWhereTheyWereNeeded(t *testing.T) {
	s := StreamPlan{Record: EpochRecord{ActiveEpoch: 1, Before: GateRecord{State: GateArmed, Mode: tidegate.ModeSync}, Missing: []tidegate.NodeName{"n3"}}}
	if l := s.loss(0); len(l.Missing) != 0 || l.Kind != LossZero {
		t.Errorf("a quorum answered, and the statement says %+v", l)
	}
	s.Record.Unclean = true
	if l := s.loss(0); len(l.Missing) != 1 || l.Kind != LossUnknown {
		t.Errorf("no quorum answered, and the statement says %+v", l)
	}
}

func TestEvidenceIsJoinedAgainstTheChosenLog(t *testing.T) {
	h := History{{Epoch: 1, StartSeq: 1}}
	at := func(seq tidegate.Seq) tidegate.LogPos { return tidegate.LogPos{Epoch: 1, Seq: seq} }
	chosen := FenceReply{History: h, Durable: at(9), Evidence: Evidence{ReleasedKnown: true, Beyond: 3, BlindKnown: true, Blind: 3 * time.Second}}
	s := StreamPlan{Replies: []FenceReply{
		chosen,
		{History: h, Durable: at(9), Evidence: Evidence{ReleasedKnown: true, Beyond: 5}},
		{History: h, Durable: at(4), Evidence: Evidence{ReleasedKnown: true, Beyond: 8, BlindKnown: true, Blind: 2 * time.Second}}, // its log is shorter: of the eight some were chosen
		{History: h, Durable: at(11), Evidence: Evidence{BlindKnown: true, Blind: time.Second}},                                    // holds what was not chosen
		{History: History{{Epoch: 2, StartSeq: 1}}, Durable: at(9), Evidence: Evidence{BlindKnown: true, Blind: time.Second}},      // of another history
	}}
	if got, want := s.evidence(chosen), (Evidence{ReleasedKnown: true, Beyond: 5, BlindKnown: true, Blind: 2 * time.Second}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
