package capture

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// endless is a log of one record that fills all of it and goes on, of pages that are
// otherwise as a server writes them.
func endless(bytes int, at wal.LSN) window {
	w := newWindow(bytes)
	le := binary.LittleEndian
	const header, size = 24, uint32(512 << 20)
	for off := 0; off < bytes; off += wal.PageSize {
		page := w.ring[(int(at%wal.LSN(bytes))+off)%bytes:]
		le.PutUint16(page, wal.Version(15).Magic())
		le.PutUint32(page[4:], 1) // timeline
		le.PutUint64(page[8:], uint64(at)+uint64(off))
		if off == 0 {
			le.PutUint32(page[header:], size) // of a record whose other fields are 0
			continue
		}
		le.PutUint16(page[2:], 1) // continues one
		le.PutUint32(page[16:], size-uint32(off/wal.PageSize*(wal.PageSize-header)))
	}
	w.start, w.end = at, at+wal.LSN(bytes)
	return w
}

// A record that no batch can carry is a log that the other site cannot be given: it is
// refused as that, at its place, and what to do is said.
func TestRecordThatNoBatchCarries(t *testing.T) {
	const bytes, at = recordBytesMax + 4*wal.PageSize, wal.LSN(16 * (recordBytesMax + 4*wal.PageSize)) // within one segment
	parser, err := wal.NewParser(wal.Config{SegmentSize: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	parser.Begin(at)
	c := &Capture{window: endless(bytes, at)}
	cur := &cursor{c: c, reread: newReread(t.Context(), c), parser: parser, at: at, buf: make([]byte, 0, bytes)}
	// Up to the limit it is waited for what comes, as for any record.
	u, err := cur.Read((at + recordBytesMax).Position(), recordBytesMax)
	if err != nil || len(u.Payload) > 0 {
		t.Fatalf("as far as a batch goes: %d bytes, %v", len(u.Payload), err)
	}
	_, err = cur.Read((at + bytes).Position(), recordBytesMax)
	if !errors.Is(err, tidegate.ErrUnsupported) || tidegate.ClassOf(err) != tidegate.Permanent || tidegate.HintOf(err) == "" {
		t.Errorf("beyond: %v, hint %q", err, tidegate.HintOf(err))
	}
	var e *tidegate.Error
	if !errors.As(err, &e) || e.Subject != at.String() {
		t.Errorf("%+v does not name its place", e)
	}
}
