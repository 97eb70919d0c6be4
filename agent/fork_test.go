package agent

import (
	"context"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/stores"
)

// A journal that began at a snapshot may hold none of the newest batches: that it forked
// off right behind them, by a later epoch, is then the proof.
func TestForkBehindTheNewestBatchIsAProof(t *testing.T) {
	h := batch.Header{Epoch: 2, Next: 0x100}
	for lineage, want := range map[tidegate.Lineage]bool{
		"journal:01+3@0000000000000100":                    true,
		"journal:01+2@0000000000000010+4@0000000000000100": true,
		"journal:01":                    false,
		"":                              false,
		"journal:01+2@0000000000000100": false, // of the batch's own term
		"journal:01+3@00000000000000ff": false,
		"journal:01+3@0000000000000101": false,
		"journal:01+3@100":              false,
		"journal:01+3@0000000000000100+4@0000000000000200": false,
	} {
		s := &stream{cfg: StreamConfig{Source: SourceJournal}}
		s.lib.lineage = lineage
		if got := s.forkedAt(h); got != want {
			t.Errorf("%q: %v", lineage, got)
		}
		s.cfg.Source = SourcePostgres
		if s.forkedAt(h) {
			t.Errorf("%q is a proof for PostgreSQL", lineage)
		}
	}
}

// begun is the source of a journal that holds nothing from before its fork.
type begun struct{ stores.Source }

func (begun) Reread(context.Context, tidegate.Position, tidegate.Position) (tidegate.Digest, error) {
	return tidegate.Digest{}, stores.ErrTrimmed
}

// A promoted agent that was started again before its service wrote anything finds control
// batches of its own terms behind the newest log.
func TestForkIsAProofBehindControlBatches(t *testing.T) {
	s := &stream{cfg: StreamConfig{Source: SourceJournal}, source: begun{}}
	s.lib.lineage = "journal:01+3@0000000000000100"
	w := &writer{s: s}
	data := func(epoch tidegate.Epoch, next tidegate.Position) batch.Header {
		return batch.Header{Generation: 1, Epoch: epoch, Kind: batch.KindData, First: next - 0x10, Next: next}
	}
	control := func(epoch tidegate.Epoch, kind batch.Kind) batch.Header {
		return batch.Header{Generation: 1, Epoch: epoch, Kind: kind, First: 0x100, Next: 0x100}
	}
	for name, c := range map[string]struct {
		tail []batch.Header
		want bool
	}{
		"fork, then restarts":         {[]batch.Header{data(2, 0xf0), data(2, 0x100), control(3, batch.KindLineage), control(3, batch.KindHeartbeat), control(4, batch.KindHeartbeat)}, true},
		"the log went on before":      {[]batch.Header{data(2, 0x100), data(2, 0x110), control(3, batch.KindLineage)}, false},
		"written by the fork's epoch": {[]batch.Header{data(3, 0x100), control(4, batch.KindHeartbeat)}, false},
	} {
		if err := w.match(t.Context(), c.tail); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
