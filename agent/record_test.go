package agent

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
)

// unproven is a writer that has just been told of its epoch, under a record that
// promises nothing.
func unproven(t *testing.T, v streamView) *writer {
	t.Helper()
	a := &Agent{holder: tidegate.NewID(), clk: clock.System(), metrics: newMetrics(prometheus.NewRegistry()), services: map[tidegate.ServiceName]*service{}}
	a.cfg.Node.Name, a.cfg.Node.Site = "n1", "east"
	s := &stream{agent: a, log: slog.New(slog.DiscardHandler), view: v, meters: a.metrics.stream(StreamConfig{Service: "ledger", Stream: "main"})}
	self := fence.Holder{Node: "n1", Site: "east", UUID: a.holder}
	w, err := newWriter(s, fence.EpochRecord{
		Version: fence.EpochRecordVersion, Stream: tidegate.NewID(), Epoch: 3, ActiveEpoch: 3, Holder: self, Active: self, State: fence.StateActive,
		Gate:   fence.GateRecord{State: fence.GateUnknown, Mode: tidegate.ModeSync},
		Config: fence.Config{Members: []fence.Member{{Node: "s1", Incarnation: tidegate.NewID()}}, W: 1},
		Head:   tidegate.LogPos{Epoch: 2, Seq: 7}, StartSeq: 8, History: fence.History{{Epoch: 3, StartSeq: 8, Holder: self.UUID}}, Plan: tidegate.NewID(),
	}, 1)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A view without the stream must not open a gate that the operator has closed,
// whatever the record says.
func TestMissingViewLoosensNothing(t *testing.T) {
	w := unproven(t, streamView{mode: tidegate.ModeSync})
	w.wish(streamView{})
	if b, _ := w.effective(); b != (tidegate.Bounds{}) {
		t.Errorf("bounds %+v after a view without the stream, want sync", b)
	}
	w = unproven(t, streamView{})
	if b, recorded := w.effective(); b != (tidegate.Bounds{}) || recorded {
		t.Errorf("bounds %+v, recorded %v with nobody's word, want sync and false", b, recorded)
	}
}

// While the log is being proven nobody knows which positions the head stands for.
func TestProvingWriterClaimsNoPosition(t *testing.T) {
	w := unproven(t, streamView{mode: tidegate.ModeSync})
	st := &StreamStatus{ID: tidegate.NewID(), Writer: w.status()}
	m := st.message()
	if m.Captured != nil || m.Durable != nil {
		t.Errorf("captured %v, durable %v: want neither", m.Captured, m.Durable)
	}
	if m.GetDurableSeq() != 7 {
		t.Errorf("durable seq %d, want the head's", m.GetDurableSeq())
	}
}
