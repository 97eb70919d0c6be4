package agent

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
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
