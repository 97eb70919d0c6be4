package deltalog_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/racetest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby/deltalog"
)

var crashConfig = deltalog.Config{SegmentBytes: 2500}

// history is what the node was told and what it acknowledged.
type history struct {
	byPos map[tidegate.LogPos][]byte // sealed bytes by the position they lead to
	acked tidegate.LogPos            // newest position that Sync returned and no cut took back
	dirs  map[string]tidegate.LogPos
}

// scenario receives two epochs: the tail of the first is superseded.
func scenario(fsys vfs.FS, h *history) error {
	h.byPos = map[tidegate.LogPos][]byte{}
	h.dirs = map[string]tidegate.LogPos{}
	l, _, err := deltalog.Open(fsys, "/log", stream, crashConfig)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }() // the machine may be down already
	w := newWriter()
	receive := func(w *writer, n int) error {
		for i := range n {
			sealed := w.data(200 + i*90)
			h.byPos[w.h.Pos()] = sealed
			if err := l.Append(sealed); err != nil {
				return err
			}
			if i%3 == 2 {
				if err := sync(l, h); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := receive(w, 4); err != nil {
		return err
	}
	next := w.fork(2)
	acked := w.h.Pos()
	if err := sync(l, h); err != nil {
		return err
	}
	if err := receive(w, 8); err != nil {
		return err
	}
	// From the order to cut on, nothing beyond it is promised in the log.
	before := h.acked
	h.acked = acked
	sum, err := l.CutTo(acked.Seq, "/quarantine", 2, "superseded", clk)
	if err != nil {
		return err
	}
	h.dirs[sum.Dir] = before
	if err := receive(next, 6); err != nil {
		return err
	}
	return sync(l, h)
}

func sync(l *deltalog.Log, h *history) error {
	pos, err := l.Sync()
	if err == nil {
		h.acked = pos
	}
	return err
}

func checkCrashed(t *testing.T, h *history, mem *vfs.Mem) error {
	t.Helper()
	l, _, err := deltalog.Open(mem, "/log", stream, crashConfig)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer l.Close()
	end := l.End()
	if end.Seq < h.acked.Seq {
		return fmt.Errorf("log ends at %s, acknowledged %s", end, h.acked)
	}
	if h.acked.Seq > 0 {
		if pos, _, err := l.At(h.acked.Seq); err != nil || pos != h.acked {
			return fmt.Errorf("acknowledged %s, log has %s: %w", h.acked, pos, err)
		}
	}
	c, err := l.ReadFrom(1)
	if err != nil {
		return err
	}
	defer c.Close()
	for c.Seq() <= end.Seq {
		hdr, sealed, err := c.Next(t.Context())
		if err != nil {
			return err
		}
		if !bytes.Equal(sealed, h.byPos[hdr.Pos()]) {
			return fmt.Errorf("batch %s is not what was received", hdr.Pos())
		}
	}
	for dir := range h.dirs {
		if _, err := mem.Stat(dir + "/" + quarantine.SummaryName); err != nil {
			return fmt.Errorf("quarantine has no summary: %w", err)
		}
	}
	// What the cut took out of the log is in quarantine, whether or not the cut
	// came to its end.
	if end.Epoch == 2 || end.Seq == 4 && h.acked.Seq == 4 && len(h.dirs) > 0 {
		if _, err := mem.Stat("/quarantine/" + stream.String()); err != nil {
			return fmt.Errorf("the first epoch's tail left the log without quarantine: %w", err)
		}
	}
	return nil
}

func TestCrashAtEveryOp(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(n)
		var h history
		if err := scenario(vfs.Inject(mem, fault.Inject), &h); fault.Fired() != (err != nil) && fault.Op().Kind != vfs.OpClose {
			t.Fatalf("op %d %+v: fired %v, error %v", n, fault.Op(), fault.Fired(), err)
		}
		for seed := range int64(10) {
			if err := checkCrashed(t, &h, mem.CrashClone(seed)); err != nil {
				t.Fatalf("op %d %+v seed %d: %v", n, fault.Op(), seed, err)
			}
		}
		if !fault.Fired() {
			t.Logf("%d operations", n)
			return
		}
	}
}

func TestFaultAtEveryOp(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for _, cause := range []error{vfs.ErrIO, vfs.Partial(vfs.ErrNoSpace)} {
		for n := int64(0); ; n++ {
			mem := vfs.NewMem()
			fault := vfs.OnIndex(n, cause)
			var h history
			err := scenario(vfs.Inject(mem, fault.Inject), &h)
			if !fault.Fired() {
				break
			}
			if err == nil && fault.Op().Kind != vfs.OpClose {
				t.Fatalf("%v at op %d %+v did not surface", cause, n, fault.Op())
			}
			if strings.Contains(cause.Error(), "space") && err != nil && !errors.Is(err, tidegate.ErrFull) {
				t.Fatalf("op %d %+v: %v is not full", n, fault.Op(), err)
			}
			for seed := range int64(3) {
				if err := checkCrashed(t, &h, mem.CrashClone(seed)); err != nil {
					t.Fatalf("%v at op %d %+v seed %d: %v", cause, n, fault.Op(), seed, err)
				}
			}
		}
	}
}
