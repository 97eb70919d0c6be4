package deltalog

import (
	"context"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/seglog"
)

// Cursor reads batches in order and follows the appends. It is not for
// concurrent use; a log may have many.
type Cursor struct {
	r *seglog.Reader
}

// ReadFrom returns a cursor whose first batch is seq, which may be one past the
// end. tidegate.ErrNotFound when seq is trimmed or further beyond.
func (l *Log) ReadFrom(seq tidegate.Seq) (*Cursor, error) {
	r, err := l.log.NewReader(uint64(seq))
	if err != nil {
		return nil, err
	}
	return &Cursor{r}, nil
}

// Seq is the seq of the next batch.
func (c *Cursor) Seq() tidegate.Seq { return tidegate.Seq(c.r.At()) }

// Next waits for the next batch, received and not necessarily durable, and
// returns it verified but for its place in the chain. sealed is valid until the
// next call. Errors: ctx's; tidegate.ErrStopped when the log has stopped and
// nothing is left; tidegate.ErrConflict when the log was cut behind the cursor;
// tidegate.ErrNotFound when it was trimmed ahead of it; *tidegate.CorruptError.
func (c *Cursor) Next(ctx context.Context) (h batch.Header, sealed []byte, err error) {
	sealed, _, err = c.r.Next(ctx)
	if err != nil {
		return h, nil, err
	}
	h, err = batch.ParseHeader(sealed)
	return h, sealed, err
}

// Close releases the cursor's file.
func (c *Cursor) Close() error { return c.r.Close() }
