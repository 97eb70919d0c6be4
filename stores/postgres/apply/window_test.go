package apply

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/wal"
	"github.com/tidegate/tidegate/stores/postgres/walsender"
)

// piece makes a batch whose bytes say where they are.
func piece(first, next wal.LSN) *local.Batch {
	b := make([]byte, next-first)
	for i := range b {
		b[i] = byte((uint64(first) + uint64(i)) * 31 >> 3)
	}
	return &local.Batch{First: first.Position(), Next: next.Position(), Payload: b}
}

func line(t *testing.T, text tidegate.Lineage) wal.Lineage {
	t.Helper()
	l, err := wal.ParseLineage(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// give reads once and compares.
func give(t *testing.T, r *reader, first, next wal.LSN) {
	t.Helper()
	at, b, err := r.Next(t.Context())
	if err != nil || at != first || !bytes.Equal(b, piece(first, next).Payload) {
		t.Fatalf("got [%s, %s), %v; want [%s, %s)", at, at+wal.LSN(len(b)), err, first, next)
	}
}

func TestWindowGivesWhatCame(t *testing.T) {
	w := newWindow(1<<20, func() {})
	w.bear(line(t, "pg:7:1"), 0)
	if _, rest, again := w.wants(); !rest || again {
		t.Error("wants something before the server has asked")
	}
	r, err := w.open(1, 0x3000000)
	must(t, err)
	if from, rest, again := w.wants(); from != 0x3000000 || rest || !again {
		t.Errorf("wants %s, rest %v, again %v", from, rest, again)
	}
	w.begin(0x3000000)
	if _, _, again := w.wants(); again {
		t.Error("wants another session than the one it asked for")
	}
	must(t, w.take(piece(0x2fff000, 0x3000100))) // begins before: trimmed
	must(t, w.take(piece(0x3000100, 0x3000200)))
	must(t, w.take(piece(0x3000100, 0x3000200))) // again: passed over
	give(t, r, 0x3000000, 0x3000200)
	if err := w.take(piece(0x3000300, 0x3000400)); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("a gap: %v", err)
	}
	must(t, r.Close())
	if _, rest, _ := w.wants(); !rest {
		t.Error("wants something after the server has gone")
	}
}

func TestWindowEndsATimeline(t *testing.T) {
	w := newWindow(1<<20, func() {})
	w.bear(line(t, "pg:7:1"), 0)
	r, err := w.open(1, 0x3000000)
	must(t, err)
	w.begin(0x3000000)
	must(t, w.take(piece(0x3000000, 0x3000158)))
	give(t, r, 0x3000000, 0x3000158)
	got := make(chan error, 1)
	go func() { _, _, err := r.Next(context.Background()); got <- err }() // owned by the test; ends with the timeline
	w.bear(line(t, "pg:7:1+2@0000000003000158"), 0x3000158)
	var end *walsender.TimelineEnd
	if err := <-got; !errors.As(err, &end) || end.At != 0x3000158 || end.Next != 2 {
		t.Errorf("got %v", err)
	}
	must(t, w.take(piece(0x3000158, 0x3000200)))
	// The new timeline is asked for from the segment's start, with the old one's bytes.
	r, err = w.open(2, 0x3000000)
	must(t, err)
	if from, rest, again := w.wants(); from != 0x3000000 || rest || !again {
		t.Errorf("wants %s, rest %v, again %v", from, rest, again)
	}
	w.begin(0x3000000)
	must(t, w.take(piece(0x3000000, 0x3000158)))
	must(t, w.take(piece(0x3000158, 0x3000200)))
	give(t, r, 0x3000000, 0x3000200)
}

func TestWindowRefusesWhatTheLogDoesNotHave(t *testing.T) {
	w := newWindow(1<<20, func() {})
	if _, err := w.open(1, 0x3000000); tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("before the history is known: %v", err)
	}
	w.bear(line(t, "pg:7:1+2@0000000003000158"), 0x3000200)
	for name, c := range map[string]struct {
		t    wal.Timeline
		from wal.LSN
		want any
	}{
		"a timeline of somebody else": {3, 0x3000000, new(*walsender.HistoryError)},
		"beyond the fork":             {1, 0x3000160, new(*walsender.HistoryError)},
		"at the fork":                 {1, 0x3000158, new(*walsender.TimelineEnd)},
		"beyond the end":              {2, 0x4000000, new(*walsender.AheadError)},
	} {
		if _, err := w.open(c.t, c.from); err == nil || !errors.As(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.open(2, 0x3000200); err != nil {
		t.Errorf("at the end: %v", err)
	}
}

func TestWindowIsShutAtH(t *testing.T) {
	w := newWindow(1<<20, func() {})
	w.bear(line(t, "pg:7:1"), 0)
	w.begin(0x3000000)
	w.shut(0x3000158)
	must(t, w.take(piece(0x3000000, 0x3000158)))
	if err := w.take(piece(0x3000158, 0x3000160)); !errors.Is(err, tidegate.ErrDiverged) {
		t.Errorf("beyond H: %v", err)
	}
	w.shut(0)
	must(t, w.take(piece(0x3000158, 0x3000160)))
}

// Nobody takes what comes: the node is told where the room ends, and anew when much
// of it was taken.
func TestWindowHasRoom(t *testing.T) {
	freed := 0
	w := newWindow(1<<12, func() { freed++ })
	w.bear(line(t, "pg:7:1"), 0)
	r, err := w.open(1, 0x3000000)
	must(t, err)
	w.begin(0x3000000)
	if got := w.room(); got != 0x3001000 {
		t.Fatalf("empty: room to %s", got)
	}
	must(t, w.take(piece(0x3000000, 0x3000800)))
	must(t, w.take(piece(0x3000800, 0x3001800))) // begins where there is room
	if err := w.take(piece(0x3001800, 0x3001900)); err == nil {
		t.Fatal("takes more than there is room for")
	}
	if got := w.room(); got != 0x3001000 || freed != 0 {
		t.Errorf("full: room to %s, freed %d", got, freed)
	}
	if _, rest, again := w.wants(); rest || again {
		t.Errorf("full: rest %v, again %v", rest, again)
	}
	give(t, r, 0x3000000, 0x3001800)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := w.room(); freed != 1 || got != 0x3002800 {
		t.Errorf("taken: room to %s, freed %d", got, freed)
	}
	must(t, w.take(piece(0x3001800, 0x3001900)))
}

// Small batches that nobody waits for are given together, and what was given in
// part is left as it is.
func TestWindowGathers(t *testing.T) {
	w := newWindow(1<<20, func() {})
	w.bear(line(t, "pg:7:1"), 0)
	r, err := w.open(1, 0x3000000)
	must(t, err)
	w.begin(0x3000000)
	must(t, w.take(piece(0x3000000, 0x3000100)))
	_, lent, err := r.Next(t.Context())
	must(t, err)
	for at := wal.LSN(0x3000100); at < 0x3000500; at += 0x80 {
		must(t, w.take(piece(at, at+0x80)))
	}
	must(t, w.take(piece(0x3000500, 0x3000500+gatherBytes)))
	if !bytes.Equal(lent, piece(0x3000000, 0x3000100).Payload) {
		t.Error("what was lent has changed")
	}
	give(t, r, 0x3000100, 0x3000500)
	give(t, r, 0x3000500, 0x3000500+gatherBytes)
}

// A reader that took another's place does not share its buffers.
func TestWindowLendsOnce(t *testing.T) {
	w := newWindow(1<<20, func() {})
	w.bear(line(t, "pg:7:1"), 0)
	old, err := w.open(1, 0x3000000)
	must(t, err)
	w.begin(0x3000000)
	must(t, w.take(piece(0x3000000, 0x3000100)))
	_, lent, err := old.Next(t.Context())
	must(t, err)
	_, err = w.open(1, 0x3000000)
	must(t, err)
	w.begin(0x3000000)
	must(t, w.take(piece(0x3000000, 0x3000080)))
	must(t, w.take(piece(0x3000080, 0x3000200)))
	if !bytes.Equal(lent, piece(0x3000000, 0x3000100).Payload) {
		t.Error("what was lent has changed")
	}
	if _, _, err := old.Next(t.Context()); !errors.Is(err, errReplaced) {
		t.Errorf("replaced: %v", err)
	}
}
