package deltalog

import (
	"context"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Config shapes a log. The zero value means the defaults.
type Config struct {
	SegmentBytes int64           // see seglog.Config; default 64 MiB
	Before       tidegate.LogPos // of a new log that starts in the middle of the stream: the position before its first batch
	Quarantine   string          // where a torn tail goes; default "torn" in the log's directory
}

// Log is the durable log of one stream.
type Log struct{}

// Open opens or creates the log of stream in dir.
func Open(fsys vfs.FS, dir string, stream tidegate.StreamID, cfg Config) (*Log, seglog.Recovery, error) {
	return nil, seglog.Recovery{}, tidegate.ErrUnsupported
}

// Append verifies whole sealed batches and appends them in order.
func (l *Log) Append(sealed ...[]byte) error { return tidegate.ErrUnsupported }

// AppendVerified appends a batch that batch.Verify or batch.VerifyBytes just
// returned h for; it still checks stream, epoch, seq and chain.
func (l *Log) AppendVerified(h *batch.Header, sealed []byte) error { return tidegate.ErrUnsupported }

// Sync makes everything appended before the call durable and returns its end.
func (l *Log) Sync() (tidegate.LogPos, error) { return tidegate.LogPos{}, tidegate.ErrUnsupported }

// First is the seq of the oldest batch kept.
func (l *Log) First() tidegate.Seq { return 0 }

// End is the position of the newest batch; the zero seq for an empty log.
func (l *Log) End() tidegate.LogPos { return tidegate.LogPos{} }

// Durable is the newest synced position.
func (l *Log) Durable() tidegate.LogPos { return tidegate.LogPos{} }

// At returns the header of a batch and the log's position with it as the last.
func (l *Log) At(seq tidegate.Seq) (tidegate.LogPos, batch.Header, error) {
	return tidegate.LogPos{}, batch.Header{}, tidegate.ErrUnsupported
}

// Tail returns the headers of the newest n batches, oldest first.
func (l *Log) Tail(n int) ([]batch.Header, error) { return nil, tidegate.ErrUnsupported }

// FindPosition returns the seq of the first batch of the generation whose Next
// is beyond pos; tidegate.ErrNotFound when there is none.
func (l *Log) FindPosition(g tidegate.Generation, pos tidegate.Position) (tidegate.Seq, error) {
	return 0, tidegate.ErrUnsupported
}

// Wait returns when the end is beyond seq.
func (l *Log) Wait(ctx context.Context, seq tidegate.Seq) error { return tidegate.ErrUnsupported }

// ReadFrom returns a cursor whose first batch is seq.
func (l *Log) ReadFrom(seq tidegate.Seq) (*Cursor, error) { return nil, tidegate.ErrUnsupported }

// CutTo makes seq the last batch; what is beyond goes to a directory under
// quarantineRoot. clk stamps the summary.
func (l *Log) CutTo(seq tidegate.Seq, quarantineRoot string, epoch tidegate.Epoch, reason string, clk clock.Clock) (Summary, error) {
	return Summary{}, tidegate.ErrUnsupported
}

// TrimBefore removes whole segments of batches before seq.
func (l *Log) TrimBefore(seq tidegate.Seq) error { return tidegate.ErrUnsupported }

// Close closes the log; it does not sync.
func (l *Log) Close() error { return nil }

// Summary says what was cut; it is summary.json in the quarantine directory.
type Summary struct {
	Stream     tidegate.StreamID `json:"stream"`
	Epoch      tidegate.Epoch    `json:"epoch"`     // under which the cut was ordered
	Epochs     []tidegate.Epoch  `json:"epochs"`    // of the batches, ascending
	FirstSeq   tidegate.Seq      `json:"first_seq"` // inclusive
	LastSeq    tidegate.Seq      `json:"last_seq"`  // inclusive
	Batches    int64             `json:"batches"`
	Records    int64             `json:"records"`
	RawBytes   int64             `json:"raw_bytes"`
	OldestTime time.Time         `json:"oldest_time"` // source wall time
	NewestTime time.Time         `json:"newest_time"`
	Reason     string            `json:"reason"`
	Created    time.Time         `json:"created"`
	Dir        string            `json:"-"` // where it lies; empty when there was nothing to cut
}

// Cursor reads batches in order and follows the appends.
type Cursor struct{}

// Seq is the seq of the next batch.
func (c *Cursor) Seq() tidegate.Seq { return 0 }

// Next waits for the next batch. sealed is valid until the next call.
func (c *Cursor) Next(ctx context.Context) (h batch.Header, sealed []byte, err error) {
	return h, nil, tidegate.ErrUnsupported
}

// Close releases the cursor's file.
func (c *Cursor) Close() error { return nil }
