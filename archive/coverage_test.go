package archive

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

// TestCoverageIsASetOfBatches compares with one that notes every batch.
func TestCoverageIsASetOfBatches(t *testing.T) {
	const end = 40
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same ranges each time
	for range 2000 {
		var c Coverage
		var has [end + 2]bool
		for range r.IntN(8) {
			first := tidegate.Seq(1 + r.IntN(end))
			last := min(end, first+tidegate.Seq(r.IntN(9)))
			c.Add(Range{first, last})
			for seq := first; seq <= last; seq++ {
				has[seq] = true
			}
		}
		var runs []Range
		for seq := tidegate.Seq(1); seq <= end; seq++ {
			if has[seq] && !has[seq-1] {
				runs = append(runs, Range{seq, seq})
			}
			if has[seq] {
				runs[len(runs)-1].Last = seq
			}
		}
		if d := cmp.Diff(runs, slices.Clone(c.Runs())); d != "" {
			t.Fatalf("runs (-want +got):\n%s", d)
		}
		begin := slices.Index(has[:], true)
		for first := tidegate.Seq(1); first <= end; first++ {
			next, upTo := c.Next(first)
			want := first
			for want <= end && (has[want] || begin >= 0 && int(want) < begin) {
				want++
			}
			again := slices.Index(has[want:], true)
			if next != want || (upTo == 0) != (again < 0) || upTo != 0 && upTo != want+tidegate.Seq(again)-1 {
				t.Fatalf("%v: a log from %d goes on with %d to %d, want %d", c.runs, first, next, upTo, want)
			}
			var lost [end + 2]bool
			for _, h := range c.Holes(first) {
				for seq := h.First; seq <= h.Last; seq++ {
					lost[seq] = true
				}
			}
			for seq := tidegate.Seq(1); seq <= end; seq++ {
				if want := !has[seq] && begin >= 0 && int(seq) > begin && seq < first; lost[seq] != want {
					t.Fatalf("%v: a log from %d, batch %d: a hole: %t, want %t", c.runs, first, seq, lost[seq], want)
				}
			}
		}
	}
}
