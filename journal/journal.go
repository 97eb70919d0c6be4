package journal

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/rpo"
)

// ErrInactive is what Await and Activate's counterpart answer when this
// service is not the active one.
var ErrInactive = errors.New("the service is not active here")

// HeaderSize is the length of a record's header in bytes.
const HeaderSize = 28

// Journal is an open journal.
type Journal struct{}

// Recovery says what Open found after an unclean stop.
type Recovery struct {
	TornBytes   int64  // of a record that was never acknowledged, moved aside
	Quarantined string // where to; empty if nothing was
}

// Open opens the journal in dir, creating it if there is none.
func Open(dir string, cfg Config) (*Journal, error) { return OpenFS(vfs.OS(), dir, cfg) }

// OpenFS is Open on another file system.
func OpenFS(fsys vfs.FS, dir string, cfg Config) (*Journal, error) { return nil, tidegate.ErrStopped }

// Close waits for what was appended to become durable and releases the
// journal. Run must have returned.
func (j *Journal) Close() error { return nil }

// Recovery returns what Open found.
func (j *Journal) Recovery() Recovery { return Recovery{} }

// Lineage returns the journal's history id and its branches.
func (j *Journal) Lineage() tidegate.Lineage { return "" }

// First returns the position of the oldest record that is kept.
func (j *Journal) First() tidegate.Position { return 0 }

// End returns the end of what was appended, durable or not.
func (j *Journal) End() tidegate.Position { return 0 }

// Durable returns the end of what is fsynced.
func (j *Journal) Durable() tidegate.Position { return 0 }

// Append appends one record and returns when it is durable. On an error the
// record may or may not be there; after ctx ended it usually will be.
func (j *Journal) Append(ctx context.Context, payload []byte, t time.Time) (Range, error) {
	return Range{}, tidegate.ErrStopped
}

// AppendBatch appends records next to each other, all of the same time, and
// returns when all are durable. After a crash a prefix of them may be there.
func (j *Journal) AppendBatch(ctx context.Context, payloads [][]byte, t time.Time) (Range, error) {
	return Range{}, tidegate.ErrStopped
}

// Submit appends one record without waiting for the disk; it blocks only while
// GroupBytesMax wait already. The record is durable once WaitDurable or Await
// has returned for its Next.
func (j *Journal) Submit(ctx context.Context, payload []byte, t time.Time) (Range, error) {
	return Range{}, tidegate.ErrStopped
}

// AppendAt is SubmitAt and WaitDurable.
func (j *Journal) AppendAt(ctx context.Context, at tidegate.Position, payload []byte, t time.Time) (Range, error) {
	return Range{}, tidegate.ErrStopped
}

// SubmitAt appends one record at a position the caller knows from its own
// replicated log; doing it again is harmless. If the journal already reaches
// beyond at, the bytes there are compared: tidegate.ErrDiverged if they differ.
// tidegate.ErrGap if at lies beyond the end.
func (j *Journal) SubmitAt(ctx context.Context, at tidegate.Position, payload []byte, t time.Time) (Range, error) {
	return Range{}, tidegate.ErrStopped
}

// AppendRaw appends whole records as they stand in another copy of this
// journal; raw is only read. Overlap with what is there is compared as by
// SubmitAt. The bytes are handed to the operating system, not fsynced.
func (j *Journal) AppendRaw(ctx context.Context, first tidegate.Position, raw []byte) (Range, error) {
	return Range{}, tidegate.ErrStopped
}

// WaitDurable returns when everything before p is fsynced here.
func (j *Journal) WaitDurable(ctx context.Context, p tidegate.Position) error {
	return tidegate.ErrStopped
}

// Sync makes everything appended so far durable.
func (j *Journal) Sync(ctx context.Context) error { return tidegate.ErrStopped }

// Await returns nil when outputs that depend on the journal up to p may leave:
// at that moment p counts as released. Errors: tidegate.ErrFenced,
// [ErrInactive], tidegate.ErrStopped, or ctx's; after an error p must not be
// released, though it may be durable.
func (j *Journal) Await(ctx context.Context, p tidegate.Position) error { return tidegate.ErrStopped }

// Activate says that the service has become the active one here. From now on
// nothing is released beyond the DR site's durable position, until that has
// reached today's end of the journal: somebody may have released up to there.
func (j *Journal) Activate() error { return nil }

// Deactivate takes Activate back. Waiters in Await fail with [ErrInactive].
func (j *Journal) Deactivate() {}

// Exposure returns what a disaster would lose now; Known is false unless the
// service is active here.
func (j *Journal) Exposure() rpo.Exposure { return rpo.Exposure{} }

// Run connects the journal to the daemons on this node until ctx ends, and
// reconnects as often as needed. It returns nil when ctx ended, or the first
// error after which the service must not go on. Without Run nothing is ever
// released. May be called once.
func (j *Journal) Run(ctx context.Context, svc Service) error { return tidegate.ErrStopped }

// Branch appends the record by which epoch's history forks off at the
// journal's end, makes it durable and extends the lineage. Again with the same
// arguments it does nothing; tidegate.ErrConflict if the end is not at.
func (j *Journal) Branch(ctx context.Context, epoch tidegate.Epoch, at tidegate.Position) (Range, error) {
	return Range{}, tidegate.ErrStopped
}

// CutTo moves everything from position at on into a directory below quarantineDir.
func (j *Journal) CutTo(at tidegate.Position, quarantineDir, reason string) (Cut, error) {
	return Cut{}, nil
}

// Cut says what CutTo moved aside.
type Cut struct {
	Range

	Records    uint64
	OldestTime time.Time
	NewestTime time.Time
	Path       string // of the quarantined bytes; empty if nothing was cut
}

// TrimBefore lets go of whole segments that end at or before p.
func (j *Journal) TrimBefore(p tidegate.Position) error { return nil }

// Reader reads records in order, beside the appender. Not safe for concurrent use.
type Reader struct{}

// NewReader reads from a record's first position on.
func (j *Journal) NewReader(from tidegate.Position) (*Reader, error) { return nil, nil }

// Next returns the next durable record, waiting for it if necessary.
func (r *Reader) Next(ctx context.Context) (Record, error) { return Record{}, nil }

// TryNext is Next without waiting: false when there is none yet.
func (r *Reader) TryNext() (Record, bool, error) { return Record{}, false, nil }

// Close releases the reader.
func (r *Reader) Close() error { return nil }

// RawReader reads whole records as raw bytes; from another process too.
type RawReader struct{}

// OpenReader reads a journal that another process may have open, from a
// record's first position on.
func OpenReader(fsys vfs.FS, dir string, from tidegate.Position) (*RawReader, error) { return nil, nil }

// Read returns whole records of at most about max bytes, at least one, ending
// at or before limit, and the position behind them; nothing when there is none
// before limit. The bytes are valid until the next call.
func (r *RawReader) Read(limit tidegate.Position, max int) (raw []byte, next tidegate.Position, err error) {
	return nil, 0, nil
}

// Close releases the reader.
func (r *RawReader) Close() error { return nil }

// Scan calls f for each record in raw, which begins at position first. It
// verifies every record's checksum, and that the bytes end with a whole record.
func Scan(raw []byte, first tidegate.Position, f func(Record) error) error { return nil }
