package agent

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

// The ring against a dumb one: a slice of copies.
func TestRingAgainstSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRing(1000, facts{seq: 7})
		type kept struct {
			seq  tidegate.Seq
			data []byte
		}
		var want []kept
		next := tidegate.Seq(8)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "add") {
				size := rapid.IntRange(1, 400).Draw(t, "size")
				if rapid.IntRange(0, 30).Draw(t, "oversize") == 0 {
					size = 1500
				}
				room := r.reserve(size + 20)
				if room == nil {
					if len(want) == 0 {
						t.Fatal("no room in an empty ring")
					}
					continue
				}
				if len(room) != 0 || cap(room) < size {
					t.Fatalf("room of len %d cap %d for %d", len(room), cap(room), size)
				}
				sealed := append(room, bytes.Repeat([]byte{byte(next)}, size)...)
				r.add(sealed, facts{seq: next, next: tidegate.Position(next) * 10}, 1)
				want = append(want, kept{next, bytes.Clone(sealed)})
				next++
			} else if len(want) > 0 {
				n := rapid.IntRange(1, len(want)).Draw(t, "trim")
				if got := r.trim(want[n-1].seq); got != n {
					t.Fatalf("trimmed %d, want %d", got, n)
				}
				if f, ok := r.factsAt(want[n-1].seq); !ok || f.next != tidegate.Position(f.seq)*10 {
					t.Fatalf("floor %v, %v", f, ok)
				}
				want = want[n:]
			}
			used := 0
			for _, k := range want {
				it, ok := r.get(k.seq)
				if !ok || !bytes.Equal(it.sealed, k.data) {
					t.Fatalf("batch %s lost or changed", k.seq)
				}
				used += len(k.data)
			}
			if r.used != used || r.n != len(want) || r.last().seq != next-1 {
				t.Fatalf("used %d, n %d, last %s; want %d, %d, %s", r.used, r.n, r.last().seq, used, len(want), next-1)
			}
			if _, ok := r.get(next); ok {
				t.Fatal("found a batch that was never added")
			}
		}
	})
}
