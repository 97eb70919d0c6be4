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

// What W nodes have stored leaves the ring before it is D: where it lay is known until then.
func TestRingKnowsWhatIsStored(t *testing.T) {
	start := facts{seq: 7}
	r := newRing(1<<20, start)
	add := func(n int) {
		for range n {
			seq := r.last().seq + 1
			r.add(append(r.reserve(1), 1), facts{seq: seq, next: tidegate.Position(seq) * 10}, 1)
		}
	}
	add(100)
	r.trim(57)
	for _, c := range []struct {
		seq   tidegate.Seq
		moved bool
	}{{20, true}, {20, false}, {57, true}, {80, true}} {
		if got := r.settle(c.seq); got != c.moved || r.durable.next != tidegate.Position(c.seq)*10 {
			t.Errorf("settle %s: %v, D is %+v", c.seq, got, r.durable)
		}
	}
	r.trim(90)
	for _, c := range []struct {
		seq  tidegate.Seq
		want bool
	}{{57, false}, {80, false}, {81, true}, {90, true}, {107, true}, {108, false}} {
		if _, known := r.factsAt(c.seq); known != c.want {
			t.Errorf("batch %s: %v", c.seq, known)
		}
	}
	for range 3 {
		add(asideMax / 2)
		r.trim(r.last().seq)
	}
	if n := len(r.aside); n > asideMax || n < asideMax/2 || r.aside[n-1] != r.floor {
		t.Errorf("%d batches aside, the last is %+v", n, r.aside[n-1])
	}
}
