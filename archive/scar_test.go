package archive_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// theGap is what led to the scar of newScarred.
var theGap = tidegate.Gap{Epoch: 1, Site: "east", Node: "db1", Lost: "the slot was dropped", Reason: "the link was down", Actor: "operator/ada", Since: time.Unix(4, 0).UTC()}

// newScarred is an archive of a batch a day: generation 1 ends with batch 4, in the middle of a
// segment or not, and generation 2 begins with batch 5, 1000 bytes further on, a day later. Each
// has bases: of day 2, and of days 6 and 8.
func newScarred(t *testing.T, segment int) *years {
	t.Helper()
	y := &years{Maker: archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "postgres"), objects: map[string][]byte{}}
	root, from := t.TempDir(), t.TempDir()
	writeFile(t, from+"/a", "files")
	for i := 1; i <= 12; i++ {
		if i == 5 {
			y.Generation, y.Epoch, y.At = 2, 2, y.At+1000
		}
		y.Time = int64(i) * int64(oneDay)
		y.Data(t, []byte(strings.Repeat(fmt.Sprint(i%10), 100)), 1, y.Time, y.Time)
		if i%segment == 0 {
			y.Segment(t)
		}
		if slices.Contains([]int{2, 6, 8}, i) {
			info := snapshot.Info{Stream: archivetest.Stream, Generation: y.Generation, Opened: y.Epoch, Taken: y.Time}
			info.Start, info.End = y.At, y.At+50
			y.bases = append(y.bases, archivetest.Base(t, root, info, from))
		}
	}
	y.Mirror(t, root)
	for o, err := range y.B.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		text, _, err := bucket.ReadAll(t.Context(), y.B, o.Name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		y.objects[o.Name] = text
	}
	return y
}

func (c *cutOff) scars(t *testing.T) []archive.Scar {
	t.Helper()
	scars, faults, err := openStream(t, c.maker).Scars(t.Context())
	if err != nil || len(faults) > 0 {
		t.Fatalf("%v, %v", faults, err)
	}
	return scars
}

// Between two generations lies what nobody can restore; on both sides everything can be.
func TestScar(t *testing.T) {
	for _, segment := range []int{2, 3} { // the border between two segments, and in one
		y := newScarred(t, segment)
		s := openStream(t, y.Maker)
		bases, err := s.Bases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer bases.Close()
		w, err := s.Window(t.Context(), bases, true)
		if err != nil || len(w.Spans) != 2 || len(w.Scars) != 1 || len(w.Faults) > 0 {
			t.Fatalf("%+v, %v", w, err)
		}
		if a, b := w.Spans[0], w.Spans[1]; !a.Restorable || a.To.Seq != 4 || a.Since.Seq != 3 || !b.Restorable || b.From.Seq != 5 || b.Since.Seq != 7 {
			t.Errorf("spans %+v", w.Spans)
		}
		if from, to, known := w.Scars[0].Lost(); from != 400 || to != 1400 || !known || w.Scars[0].Ended.Seq != 4 || w.Scars[0].Begun.Seq != 5 {
			t.Errorf("scar %+v", w.Scars[0])
		}
		lies := func(what string, to restore.To, words string) {
			t.Helper()
			_, err := restore.Choose(t.Context(), s, bases, restore.Choice{To: to, NeedsBase: true})
			switch {
			case words == "" && err != nil:
				t.Errorf("%s: %v", what, err)
			case words == "":
			case !errors.Is(err, tidegate.ErrGap) || tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), words) || tidegate.HintOf(err) == "":
				t.Errorf("%s: %v (%s), want %q", what, err, tidegate.ClassOf(err), words)
			}
		}
		day := func(d float64) restore.To {
			return restore.To{Time: time.Unix(0, int64(d*float64(oneDay)))}
		}
		const scar = "lies in a scar"
		lies("the last record before it", day(4), "")
		lies("a moment behind that", day(4.5), scar)
		lies("before the base behind it is consistent", day(6), scar)
		lies("behind it", day(9), "")
		lies("latest", restore.To{}, "")
		lies("the end of the first generation", restore.To{Position: 400, Generation: 1}, "")
		lies("a position in it", restore.To{Position: 900}, scar)
		lies("a position in it, of the first generation", restore.To{Position: 401, Generation: 1}, scar)
		lies("a batch behind it", restore.To{Seq: 6}, scar)
		if _, err := s.AtPosition(t.Context(), 0, 100); errors.Is(err, tidegate.ErrGap) {
			t.Errorf("a position that the older generation has: %v", err)
		}
	}
}

// A source that was set back begins anew before where it had ended: nobody knows what is lost.
func TestScarOfASourceSetBack(t *testing.T) {
	m := newMaker(t)
	fill(t, m, 3, 3)
	m.Generation, m.Epoch, m.At = 2, 2, 50
	fill(t, m, 3, 3)
	scars, _, err := openStream(t, m).Scars(t.Context())
	if err != nil || len(scars) != 1 || !strings.Contains(scars[0].String(), "unknown: the source was set back") {
		t.Fatalf("%v, %v", scars, err)
	}
	if _, _, known := scars[0].Lost(); known {
		t.Error("it is known")
	}
}

// What is on record of a gap is written down once the archive has both sides, and again
// changes nothing; a gap of which nothing came is let be.
func TestScarIsWrittenDown(t *testing.T) {
	c := newScarred(t, 3).copy(t)
	node := source{gaps: []tidegate.Gap{theGap, {Epoch: 9, Reason: "to come"}}}
	w := c.keeper(archive.Retention{}, node)
	for range 3 {
		if err := w.ScarStep(t.Context(), 13); err != nil {
			t.Fatal(err)
		}
	}
	if c.changes != 1 || len(c.put) != 1 || c.put[0] != (archive.ScarName{Seq: 5, Epoch: 2}).Name(archivetest.Stream) {
		t.Fatalf("%d changes: %q", c.changes, c.put)
	}
	if err := c.keeper(archive.Retention{}, node).ScarStep(t.Context(), 13); err != nil || c.changes != 1 {
		t.Errorf("another node: %d changes, %v", c.changes, err)
	}
	scars := c.scars(t)
	if len(scars) != 1 || scars[0].Accepted == nil || *scars[0].Accepted != theGap {
		t.Fatalf("%+v", scars)
	}
	// A branch that a failover left has scars of its own.
	left := scars[0]
	left.Begun.Seq, left.Begun.Chain = 6, tidegate.Chain{9}
	if _, err := c.Bucket.Put(t.Context(), archive.ScarName{Seq: 6, Epoch: 2}.Name(archivetest.Stream), strings.NewReader(string(left.Encode())), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if scars := c.scars(t); len(scars) != 1 || scars[0].Begun.Seq != 5 {
		t.Errorf("%+v", scars)
	}
}

// Damage on a side of a scar keeps it from being written down, and stops nothing else.
func TestScarBesideDamage(t *testing.T) {
	c := newScarred(t, 2).copy(t)
	name := ""
	for o, err := range c.List(t.Context(), archive.LogPrefix(archivetest.Stream), "") {
		if err != nil {
			t.Fatal(err)
		}
		if g, err := archive.ParseSegment(archivetest.Stream, o.Name); err == nil && g.Last == 4 {
			name = o.Name
		}
	}
	flip := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	c.maker.Change(t, name, flip)
	w := c.keeper(archive.Retention{}, source{gaps: []tidegate.Gap{theGap}})
	if err := w.ScarStep(t.Context(), 13); err != nil || len(c.put) > 0 {
		t.Errorf("put %q, %v", c.put, err)
	}
	c.maker.Change(t, name, flip)
	if err := w.ScarStep(t.Context(), 14); err != nil || len(c.put) != 1 {
		t.Errorf("mended: put %q, %v", c.put, err)
	}
}

// TestScarStays: whatever a pass of the rule was cut off at around its being written, the scar is there, also when both
// sides of it have gone, and says who accepted it; by whom it was accepted is unknown where
// nobody remembers.
func TestScarStays(t *testing.T) {
	y := newScarred(t, 2)
	rule := archive.Retention{Window: 2 * oneDay}
	for _, gaps := range [][]tidegate.Gap{{theGap}, nil} {
		whole := func(c *cutOff, when string) {
			t.Helper()
			scars := c.scars(t)
			if len(scars) != 1 || scars[0].Begun.Seq != 5 || scars[0].Ended.Next != 400 {
				t.Fatalf("%s: %+v", when, scars)
			}
		}
		c := y.copy(t)
		put := 0
		c.before = func(name string) {
			if strings.Contains(name, "/scars/") {
				put = c.changes
			}
		}
		if err := c.keeper(rule, source{gaps: gaps}).KeepPass(t.Context()); err != nil {
			t.Fatal(err)
		}
		whole(c, "not cut")
		s := openStream(t, c.maker)
		if first := s.Branch.Segments[0].First; first < 6 {
			t.Fatalf("the log begins with %d", first)
		}
		scars := c.scars(t)
		if got := scars[0].Accepted; (got != nil) != (len(gaps) > 0) || got != nil && *got != theGap {
			t.Errorf("accepted: %+v", got)
		}
		for at := put - 1; at <= min(put+3, c.changes-1) && len(gaps) > 0; at++ { // TestKeep has the others
			for _, done := range []bool{false, true} {
				cut := y.copy(t)
				cut.at, cut.done = at, done
				when := fmt.Sprintf("cut at change %d, done %t", at, done)
				if err := cut.keeper(rule, source{gaps: gaps}).KeepPass(t.Context()); !errors.Is(err, errCut) {
					t.Fatalf("%s: %v", when, err)
				}
				whole(cut, when)
				cut.at = math.MaxInt
				if err := cut.keeper(rule, source{}).KeepPass(t.Context()); err != nil {
					t.Fatalf("after %s: %v", when, err)
				}
				whole(cut, "after "+when)
			}
		}
	}
}

// A scar that cannot be read is told of, and hides nothing.
func TestScarThatCannotBeRead(t *testing.T) {
	c := newScarred(t, 2).copy(t)
	if _, err := c.Bucket.Put(t.Context(), archive.ScarName{Seq: 5, Epoch: 2}.Name(archivetest.Stream), strings.NewReader("{"), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	scars, faults, err := openStream(t, c.maker).Scars(t.Context())
	if err != nil || len(scars) != 1 || len(faults) != 1 || tidegate.ClassOf(faults[0]) != tidegate.Corrupt {
		t.Errorf("%v, %v, %v", scars, faults, err)
	}
}
