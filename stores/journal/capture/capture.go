package capture

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"math"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores"
)

// chunkBytes is how much Reread digests at a time: large enough that system
// calls do not count, small enough that ctx is looked at every millisecond.
const chunkBytes = 1 << 20

// Source is a journal directory. It implements [stores.Source].
type Source struct {
	fs  vfs.FS
	dir string

	// The reader that the last Reread left behind: an observer asks for one
	// range after the other, and opening a reader means finding its place.
	mu    sync.Mutex
	spare *cursor
}

var _ stores.Source = (*Source)(nil)

// New returns the source for the journal in dir; no I/O.
func New(fsys vfs.FS, dir string) *Source { return &Source{fs: fsys, dir: dir} }

// Close releases what Reread keeps open. The source may be used again.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drop()
}

func (s *Source) drop() error {
	if s.spare == nil {
		return nil
	}
	err := s.spare.Close()
	s.spare = nil
	return err
}

// Follow implements [stores.Source].
func (s *Source) Follow(_ context.Context, from tidegate.Position) (stores.Cursor, error) {
	return s.open(from)
}

func (s *Source) open(from tidegate.Position) (*cursor, error) {
	r, err := journal.OpenReaderFS(s.fs, s.dir, from)
	if errors.Is(err, journal.ErrTrimmed) {
		err = fmt.Errorf("%w: %w", stores.ErrTrimmed, err)
	}
	if err != nil {
		return nil, fmt.Errorf("capture journal %s from %s: %w", s.dir, from, err)
	}
	return &cursor{s: s, r: r, at: from}, nil
}

// Reread implements [stores.Source].
func (s *Source) Reread(ctx context.Context, first, next tidegate.Position) (tidegate.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == nil || s.spare.at != first {
		if err := s.drop(); err != nil {
			return tidegate.Digest{}, fmt.Errorf("capture journal %s: %w", s.dir, err)
		}
		c, err := s.open(first)
		if err != nil {
			return tidegate.Digest{}, err
		}
		s.spare = c
	}
	h := sha256.New()
	if err := s.spare.digest(ctx, h, next); err != nil {
		return tidegate.Digest{}, fmt.Errorf("reread [%s, %s): %w", first, next, errors.Join(err, s.drop()))
	}
	return tidegate.Digest(h.Sum(nil)[:16]), nil
}

func (c *cursor) digest(ctx context.Context, h hash.Hash, next tidegate.Position) error {
	for c.at < next {
		if err := ctx.Err(); err != nil {
			return err
		}
		raw, err := c.read(next, chunkBytes)
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			return fmt.Errorf("journal %s has no record that ends at %s after %s: %w", c.s.dir, next, c.at, tidegate.ErrNotFound)
		}
		h.Write(raw)
	}
	return nil
}

// cursor implements [stores.Cursor].
type cursor struct {
	s  *Source
	r  *journal.RawReader // nil after an error: opened again at the next read
	at tidegate.Position
}

// read returns whole records and moves on; on error it stays where it was.
func (c *cursor) read(limit tidegate.Position, bytesMax int) (raw []byte, err error) {
	if c.r == nil {
		fresh, err := c.s.open(c.at)
		if err != nil {
			return nil, err
		}
		c.r = fresh.r
	}
	raw, next, err := c.r.Read(limit, bytesMax)
	if err != nil {
		return nil, fmt.Errorf("capture journal %s at %s: %w", c.s.dir, c.at, errors.Join(err, c.Close()))
	}
	if len(raw) > 0 {
		c.at = next
	}
	return raw, nil
}

// Read implements [stores.Cursor].
func (c *cursor) Read(limit tidegate.Position, bytesMax int) (stores.Unit, error) {
	u := stores.Unit{First: c.at, Next: c.at}
	if limit <= c.at {
		return u, nil
	}
	raw, err := c.read(limit, bytesMax)
	if err != nil || len(raw) == 0 {
		return u, err
	}
	u.Next, u.Payload = c.at, raw
	u.Oldest, u.Newest = math.MaxInt64, math.MinInt64
	err = journal.Scan(raw, u.First, func(rec journal.Record) error {
		ns := rec.Time.UnixNano()
		u.Records++
		u.Oldest, u.Newest = min(u.Oldest, ns), max(u.Newest, ns)
		return nil
	})
	if err != nil {
		c.at = u.First
		return stores.Unit{First: c.at, Next: c.at}, fmt.Errorf("capture journal %s at %s: %w", c.s.dir, c.at, errors.Join(err, c.Close()))
	}
	return u, nil
}

// Close implements [stores.Cursor].
func (c *cursor) Close() error {
	if c.r == nil {
		return nil
	}
	err := c.r.Close()
	c.r = nil
	return err
}
