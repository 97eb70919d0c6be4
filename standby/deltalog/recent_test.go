package deltalog

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// TestRecentNeverAnswersForAnother compares with a map: after any appends, cuts
// and jumps what is remembered is what was appended last at that seq.
func TestRecentNeverAnswersForAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r recent
		log := map[tidegate.Seq]batch.Header{}
		next := tidegate.Seq(rapid.Uint64Range(1, 3000).Draw(t, "first"))
		first := next
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			if rapid.IntRange(0, 3).Draw(t, "cut") == 0 && next > first {
				to := tidegate.Seq(rapid.Uint64Range(uint64(first-1), uint64(next-1)).Draw(t, "to"))
				r.cut(to)
				for s := to + 1; s < next; s++ {
					delete(log, s)
				}
				next = to + 1
			}
			appends := rapid.IntRange(0, recentMax+50).Draw(t, "appends")
			for range appends {
				h := batch.Header{Seq: next, Records: uint32(i)}
				r.push(&h)
				log[next] = h
				next++
			}
			for s := max(first, 2) - 2; s < next+3; s++ {
				h, ok := r.at(s)
				if want, has := log[s]; ok && (!has || h != want) {
					t.Fatalf("at %d: %+v, want %+v (%v)", s, h, want, has)
				}
			}
			if _, ok := r.at(next - 1); appends > 0 && !ok {
				t.Fatal("the newest is not remembered")
			}
		}
	})
}
