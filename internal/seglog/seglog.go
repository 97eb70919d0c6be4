package seglog

import (
	"context"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// HeaderSize is the size of a segment's header, in bytes; records follow.
const HeaderSize = 64

// State is 16 bytes of the caller's that go with a place in the log.
type State [16]byte

// Record is what a record's header says about it.
type Record struct {
	Len  int    // bytes, header included
	Next uint64 // index after the record; greater than its own
}

// Format knows the records of one kind of log. All methods may be called
// concurrently and keep nothing of what they are given.
type Format interface {
	// Magic names the format in segment headers.
	Magic() [4]byte
	// HeaderLen is how many bytes Parse needs, at least 1.
	HeaderLen() int
	// Parse reads a record's header, hdr[:HeaderLen()], of the record at index
	// at. It is called on torn bytes too and must check what it returns.
	Parse(hdr []byte, at uint64) (Record, error)
	// Verify checks a whole record, all of whose bytes are in rec.
	Verify(rec []byte, at uint64) error
}

// Chained is a Format whose records prove their predecessors. The state after
// a record is stored in the header of a segment that starts there.
type Chained interface {
	Format
	// State is the state after rec, which has been verified.
	State(rec []byte) State
	// Follows checks that rec may come where the state is prev.
	Follows(prev State, rec []byte) error
}

// Config shapes a log. The zero value means the defaults.
type Config struct {
	// SegmentBytes is the most record bytes in a segment; a longer record gets a
	// segment of its own. Default 64 MiB: a roll costs two syncs and a segment
	// is the unit of trimming. It decides where segments begin: do not change it
	// under a log that must stay equal to another.
	SegmentBytes int64
	// First and State start a log that does not exist yet: the index of its
	// first record and the state before it. An existing log keeps its own.
	First uint64
	State State
	// Quarantine is the directory for torn tails, made when needed. Default:
	// "torn" inside the log's directory.
	Quarantine string
}

// Recovery says what [Open] found and did.
type Recovery struct {
	TornBytes   int64  // truncated from the tail; 0 after a clean shutdown
	Quarantined string // file that holds them; empty when there were none
}

// Cut says what [Log.CutTo] moved away.
type Cut struct {
	Dir   string // quarantine directory; empty when there was nothing to cut
	First uint64 // index of the first record cut
	Next  uint64 // index after the last
	Bytes int64
}

// Log is an open log.
type Log struct{}

// Open opens or creates the log in dir, whose parent must exist.
func Open(fsys vfs.FS, dir string, format Format, cfg Config) (*Log, Recovery, error) {
	return nil, Recovery{}, tidegate.ErrUnsupported
}

// Append writes whole records, back to back, of which the last ends at index next.
func (l *Log) Append(recs []byte, next uint64) error { return tidegate.ErrUnsupported }

// Sync makes everything appended before the call durable.
func (l *Log) Sync() error { return tidegate.ErrUnsupported }

// First is the index of the oldest record kept.
func (l *Log) First() uint64 { return 0 }

// End is the index after the newest record.
func (l *Log) End() uint64 { return 0 }

// Durable is the index up to which the log has been synced.
func (l *Log) Durable() uint64 { return 0 }

// EndState is the state after the newest record.
func (l *Log) EndState() State { return State{} }

// Wait returns when End is beyond index.
func (l *Log) Wait(ctx context.Context, index uint64) error { return tidegate.ErrUnsupported }

// CutTo removes every record from index on, after it is safe in quarantineDir.
func (l *Log) CutTo(index uint64, quarantineDir, reason string, attach ...Attachment) (Cut, error) {
	return Cut{}, tidegate.ErrUnsupported
}

// Attachment is a file to lie beside cut records in quarantine.
type Attachment struct {
	Name string
	Data []byte
}

// TrimBefore removes whole segments all of whose records are before index.
func (l *Log) TrimBefore(index uint64) error { return tidegate.ErrUnsupported }

// Close closes the log; it does not sync.
func (l *Log) Close() error { return nil }

// Reader reads whole, verified records in order.
type Reader struct{}

// NewReader returns a reader whose first record is the one at index from.
func (l *Log) NewReader(from uint64) (*Reader, error) { return nil, tidegate.ErrUnsupported }

// OpenReader is NewReader for another process: it only reads what the caller
// says is valid, by the limit of ReadUpTo.
func OpenReader(fsys vfs.FS, dir string, format Format, from uint64) (*Reader, error) {
	return nil, tidegate.ErrUnsupported
}

// At is the index of the next record.
func (r *Reader) At() uint64 { return 0 }

// Next waits for the next record and returns it; it is valid until the next call.
func (r *Reader) Next(ctx context.Context) (rec []byte, next uint64, err error) {
	return nil, 0, tidegate.ErrUnsupported
}

// ReadUpTo returns whole records up to index limit, without waiting: as many as
// fit in buf, but at least one if there is one, in new storage when buf is too
// small. None left: no bytes and no error.
func (r *Reader) ReadUpTo(limit uint64, buf []byte) (recs []byte, next uint64, err error) {
	return nil, 0, tidegate.ErrUnsupported
}

// Close releases the reader's file.
func (r *Reader) Close() error { return nil }
