package journal

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
)

// readChunk is how much a Reader takes from the file at once.
const readChunk = 256 << 10

// Reader reads records in order, beside the appender. Not safe for concurrent use.
type Reader struct {
	j     *Journal
	r     *seglog.Reader
	buf   []byte
	chunk []byte // whole records, verified, not handed out yet
	at    tidegate.Position
}

// NewReader reads from a record's first position on; First at the earliest.
func (j *Journal) NewReader(from tidegate.Position) (*Reader, error) {
	r, err := j.log.NewReader(uint64(from))
	if err != nil {
		return nil, fmt.Errorf("read journal at %s: %w", from, err)
	}
	return &Reader{j: j, r: r, at: from}, nil
}

// Next returns the next record once it is durable here, waiting for it if
// necessary. Its payload is valid until the following call.
func (r *Reader) Next(ctx context.Context) (Record, error) {
	for {
		rec, ok, err := r.TryNext()
		if err != nil || ok {
			return rec, err
		}
		if err := r.j.WaitDurable(ctx, r.at+1); err != nil {
			return Record{}, err
		}
	}
}

// TryNext is Next without waiting: false when there is none yet.
func (r *Reader) TryNext() (Record, bool, error) {
	if len(r.chunk) == 0 {
		durable := r.j.Durable()
		if r.at >= durable {
			return Record{}, false, nil
		}
		if r.buf == nil {
			r.buf = make([]byte, 0, readChunk)
		}
		chunk, _, err := r.r.ReadUpTo(uint64(durable), r.buf[:0])
		if err != nil {
			return Record{}, false, fmt.Errorf("read journal at %s: %w", r.at, err)
		}
		r.chunk = chunk
	}
	rec, err := parseRecord(r.chunk, r.at)
	if err != nil {
		return Record{}, false, err
	}
	r.chunk = r.chunk[rec.Next-rec.First:]
	r.at = rec.Next
	return rec, true, nil
}

// At returns the position of the next record.
func (r *Reader) At() tidegate.Position { return r.at }

// Close releases the reader.
func (r *Reader) Close() error { return r.r.Close() }

// RawReader reads whole records as raw bytes, from another process than the one
// that has the journal open. Not safe for concurrent use.
type RawReader struct {
	r   *seglog.Reader
	buf []byte
}

// ErrTrimmed says that a journal begins behind what was asked for: it was trimmed, or
// began at a snapshot. It is a kind of tidegate.ErrNotFound.
var ErrTrimmed = seglog.ErrTrimmed

// OpenReader reads the journal in dir from a record's first position on. It
// takes no lock and writes nothing.
func OpenReader(dir string, from tidegate.Position) (*RawReader, error) {
	return OpenReaderFS(vfs.OS(), dir, from)
}

// OpenReaderFS is OpenReader on another file system.
func OpenReaderFS(fsys vfs.FS, dir string, from tidegate.Position) (*RawReader, error) {
	r, err := seglog.OpenReader(fsys, filepath.Join(dir, logName), format{}, uint64(from))
	if err != nil {
		return nil, fmt.Errorf("read journal %s at %s: %w", dir, from, err)
	}
	return &RawReader{r: r}, nil
}

// Read returns whole, verified records that end at or before limit, as many as
// fit into bytesMax but at least one, and the position behind them; no bytes
// when there is none. limit must be durable, as the library reports it. The
// bytes are valid until the next call; [Scan] takes them apart.
func (r *RawReader) Read(limit tidegate.Position, bytesMax int) (raw []byte, next tidegate.Position, err error) {
	if cap(r.buf) < bytesMax {
		r.buf = make([]byte, 0, bytesMax)
	}
	raw, n, err := r.r.ReadUpTo(uint64(limit), r.buf[:0:bytesMax])
	if err != nil {
		return nil, 0, fmt.Errorf("read journal: %w", err)
	}
	return raw, tidegate.Position(n), nil
}

// At returns the position of the next record.
func (r *RawReader) At() tidegate.Position { return tidegate.Position(r.r.At()) }

// Close releases the reader.
func (r *RawReader) Close() error { return r.r.Close() }
