package storestest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores"
)

// Fixture is a store under test.
type Fixture struct {
	Source stores.Source
	First  tidegate.Position // of the first record that will be appended
	// Append writes one record of about size bytes at source time ns, makes it
	// durable and returns the end of the log.
	Append func(t *testing.T, size int, ns int64) tidegate.Position
}

// Run checks what [stores.Source] promises. fresh makes an empty store.
func Run(t *testing.T, fresh func(t *testing.T) Fixture) {
	t.Run("units are whole, in order, without a hole", func(t *testing.T) { testWhole(t, fresh(t)) })
	t.Run("a unit ends at the limit", func(t *testing.T) { testLimit(t, fresh(t)) })
	t.Run("a cursor sees what is written later", func(t *testing.T) { testFollow(t, fresh(t)) })
	t.Run("a large record comes alone", func(t *testing.T) { testLarge(t, fresh(t)) })
	t.Run("reread digests", func(t *testing.T) { testReread(t, fresh(t)) })
	t.Run("positions that are not there", func(t *testing.T) { testMissing(t, fresh(t)) })
}

// written is what was appended: ends[i] is the end after record i.
type written struct {
	first tidegate.Position
	ends  []tidegate.Position
	times []int64
}

func (w written) end() tidegate.Position { return w.ends[len(w.ends)-1] }

// index returns how many records end at or before p, or -1 if p is no boundary.
func (w written) index(p tidegate.Position) int {
	if p == w.first {
		return 0
	}
	for i, e := range w.ends {
		if e == p {
			return i + 1
		}
	}
	return -1
}

func fill(t *testing.T, f Fixture, n int) written {
	t.Helper()
	w := written{first: f.First}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		// Source times need not be in order: clocks step.
		ns := int64(1_000_000 + (i*7)%13)
		w.ends = append(w.ends, f.Append(t, 1+rnd.IntN(300), ns))
		w.times = append(w.times, ns)
	}
	return w
}

// readAll reads from p to limit and checks every unit against w.
func readAll(t *testing.T, f Fixture, w written, from, limit tidegate.Position, bytesMax int) []byte {
	t.Helper()
	c, err := f.Source.Follow(t.Context(), from)
	if err != nil {
		t.Fatalf("follow %s: %v", from, err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	var all []byte
	for at := from; at < limit; {
		u, err := c.Read(limit, bytesMax)
		if err != nil {
			t.Fatalf("read at %s: %v", at, err)
		}
		if u.First != at || u.Next <= at || u.Next > limit {
			t.Fatalf("unit [%s, %s) at %s with limit %s", u.First, u.Next, at, limit)
		}
		check(t, w, u)
		all = append(all, u.Payload...)
		at = u.Next
	}
	u, err := c.Read(limit, bytesMax)
	if err != nil || u.Records != 0 || u.First != limit || u.Next != limit || len(u.Payload) != 0 {
		t.Fatalf("at the limit: unit [%s, %s) of %d records, %v; want an empty one", u.First, u.Next, u.Records, err)
	}
	return all
}

func check(t *testing.T, w written, u stores.Unit) {
	t.Helper()
	a, b := w.index(u.First), w.index(u.Next)
	if a < 0 || b < 0 || int(u.Records) != b-a {
		t.Fatalf("unit [%s, %s) of %d records splits a record (records %d to %d)", u.First, u.Next, u.Records, a, b)
	}
	oldest, newest := w.times[a], w.times[a]
	for _, ns := range w.times[a:b] {
		oldest, newest = min(oldest, ns), max(newest, ns)
	}
	if u.Oldest != oldest || u.Newest != newest {
		t.Errorf("unit [%s, %s): times %d to %d, want %d to %d", u.First, u.Next, u.Oldest, u.Newest, oldest, newest)
	}
}

func testWhole(t *testing.T, f Fixture) {
	w := fill(t, f, 60)
	all := readAll(t, f, w, w.first, w.end(), 1<<20)
	for _, bytesMax := range []int{1, 500, 4096} {
		if got := readAll(t, f, w, w.first, w.end(), bytesMax); !bytes.Equal(got, all) {
			t.Errorf("units of at most %d bytes give %d bytes, one unit gave %d", bytesMax, len(got), len(all))
		}
	}
	for i, from := range w.ends {
		if i%7 == 0 && from < w.end() {
			if got := readAll(t, f, w, from, w.end(), 700); !bytes.HasSuffix(all, got) {
				t.Errorf("reading from %s gives other bytes than reading through it", from)
			}
		}
	}
}

func testLimit(t *testing.T, f Fixture) {
	w := fill(t, f, 20)
	for _, limit := range w.ends {
		readAll(t, f, w, w.first, limit, 1<<20)
	}
}

func testFollow(t *testing.T, f Fixture) {
	w := fill(t, f, 3)
	c, err := f.Source.Follow(t.Context(), w.end())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	for i := range 200 {
		from := w.end()
		w.ends = append(w.ends, f.Append(t, 40, int64(i)))
		w.times = append(w.times, int64(i))
		u, err := c.Read(w.end(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if u.First != from || u.Next != w.end() || u.Records != 1 {
			t.Fatalf("unit [%s, %s) of %d records, want [%s, %s) of 1", u.First, u.Next, u.Records, from, w.end())
		}
		check(t, w, u)
	}
}

func testLarge(t *testing.T, f Fixture) {
	w := fill(t, f, 1)
	w.ends = append(w.ends, f.Append(t, 100_000, 5), f.Append(t, 10, 6))
	w.times = append(w.times, 5, 6)
	readAll(t, f, w, w.first, w.end(), 1000)
}

func testReread(t *testing.T, f Fixture) {
	w := fill(t, f, 30)
	for _, r := range []struct{ first, next tidegate.Position }{
		{w.first, w.end()}, {w.ends[3], w.ends[4]}, {w.ends[10], w.ends[25]}, {w.end(), w.end()},
	} {
		var content []byte
		if r.first < r.next {
			content = readAll(t, f, w, r.first, r.next, 1<<20)
		}
		sum := sha256.Sum256(content)
		got, err := f.Source.Reread(t.Context(), r.first, r.next)
		if err != nil {
			t.Fatal(err)
		}
		if want := tidegate.Digest(sum[:16]); got != want {
			t.Errorf("reread [%s, %s) = %s, want %s", r.first, r.next, got, want)
		}
	}
}

func testMissing(t *testing.T, f Fixture) {
	w := fill(t, f, 4)
	if _, err := f.Source.Follow(t.Context(), w.end()+1000); err == nil {
		t.Error("a cursor beyond the end of the log")
	}
	if _, err := f.Source.Reread(t.Context(), w.ends[1], w.end()+1000); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("reread beyond the end = %v, want %v", err, tidegate.ErrNotFound)
	}
	if _, err := f.Source.Reread(t.Context(), w.ends[1], w.ends[2]-1); err == nil {
		t.Error("reread up to the middle of a record gave a digest")
	}
}
