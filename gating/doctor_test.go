package gating

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// findingsOf returns the doctor's findings about streams, as "finding; next step".
func (s *site) findingsOf(stream string) []string {
	s.t.Helper()
	return s.findingsAbout("stream " + stream)
}

func (s *site) findingsAbout(subject string) []string {
	s.t.Helper()
	r, err := s.operator(tidegate.RoleViewer).Doctor(s.t.Context(), connect.NewRequest(&pb.DoctorRequest{}))
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, f := range r.Msg.GetFindings() {
		if f.GetSubject() == subject {
			out = append(out, f.GetFinding()+"; "+f.GetNextStep())
		}
	}
	return out
}

func TestDoctorFindsStreamsThatNobodyShips(t *testing.T) {
	t.Parallel()
	s := newSite(t, "w1", "w2", "w3")
	s.startGate("gate-a", nil, nil)
	s.register()
	s.addStreams(pb.Mode_MODE_SYNC, nil)
	want := func(stream, text string) {
		t.Helper()
		if got := s.findingsOf(stream); !slices.ContainsFunc(got, func(f string) bool { return strings.Contains(f, text) }) {
			t.Errorf("stream %s: findings %q, want one with %q", stream, got, text)
		}
	}
	want("ledger/a", "never had a writer")
	want("ledger/a", "tidegate streams remove ledger/a")
	s.agent("e1", "east")
	s.mustAcquire("e1", "east")
	want("ledger/b", "its writer e1 has not reported")
	op := s.operator(tidegate.RoleOperator)
	if _, err := op.PauseStream(t.Context(), connect.NewRequest(&pb.PauseStreamRequest{Service: "ledger", Stream: "a"})); err != nil {
		t.Fatal(err)
	}
	s.eventually("the pause to be seen", func() error {
		if got := s.findingsOf("ledger/a"); len(got) < 2 {
			return fmt.Errorf("findings %q", got)
		}
		return nil
	})
	want("ledger/a", "tidegate streams resume ledger/a")
}
