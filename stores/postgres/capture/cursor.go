package capture

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const (
	// leadBytes are read in front of a place to see that a record ends there.
	leadBytes = overlapBytes
	// chunkBytes is how much is read at a time where no limit says less.
	chunkBytes = 256 << 10
	// recordBytesMax bounds a unit that is one record: what a batch may carry.
	recordBytesMax = 64 << 20
)

// cursor implements [stores.Cursor]: it parses what it reads, so a unit is whole
// records whatever came before.
type cursor struct {
	c      *Capture
	reread *reread
	parser *wal.Parser // nil after a fault: the next read finds its place again
	at     wal.LSN     // where the next unit begins
	buf    []byte      // from at on, all of it pushed; the last unit's bytes come first
	given  int         // bytes of buf that the last unit gave away
}

// Follow implements [stores.Source]. ctx ends the cursor's reading, too.
func (c *Capture) Follow(ctx context.Context, from tidegate.Position) (stores.Cursor, error) {
	cur := &cursor{c: c, reread: newReread(ctx, c), at: wal.LSN(from)}
	if err := cur.find(ctx); err != nil {
		cur.reread.close()
		return nil, fmt.Errorf("follow log from %s: %w", wal.LSN(from), err)
	}
	return cur, nil
}

// find puts the parser at cur.at, having seen that a record ends there.
func (cur *cursor) find(ctx context.Context) error {
	p, err := cur.c.await(ctx, func() bool { return cur.c.place.known && cur.c.gate.Head.Position != 0 })
	if err != nil {
		return err
	}
	cur.c.mu.Lock()
	head := wal.LSN(cur.c.gate.Head.Position)
	cur.c.mu.Unlock()
	start := p.segment.Start(cur.at)
	if cur.at > head && cur.at != start {
		return &tidegate.Error{Op: "read log", Class: tidegate.Permanent, Err: fmt.Errorf("it ends at %s", head)}
	}
	if cur.parser, err = wal.NewParser(wal.Config{SegmentSize: p.segment, System: p.system, Lineage: p.lineage}); err != nil {
		return err
	}
	cur.buf, cur.given = cur.buf[:0], 0
	near := max(start, (cur.at - min(cur.at, leadBytes)).PageStart())
	for _, lead := range []wal.LSN{near, start} {
		cur.parser.Begin(lead)
		if err := cur.lead(); err != nil {
			cur.parser = nil
			return err
		}
		if cur.parser.End() == cur.at || cur.at == start {
			cur.parser.TakeTally()
			return nil
		}
		if cur.parser.First() != 0 && cur.parser.Padding() == 0 {
			break
		}
	}
	end := cur.parser.End()
	cur.parser = nil
	return &tidegate.Error{Op: "read log", Class: tidegate.Permanent, Err: fmt.Errorf("%w at %s; the last one before ends at %s", errNoRecord, cur.at, end)}
}

// lead pushes what lies between the parser's place and cur.at.
func (cur *cursor) lead() error {
	for cur.parser.Next() < cur.at {
		n := int(min(cur.at-cur.parser.Next(), chunkBytes))
		if cap(cur.buf) < n {
			cur.buf = make([]byte, 0, chunkBytes)
		}
		n, err := cur.pull(cur.buf[:n])
		if err != nil {
			return err
		}
		if err := cur.parser.Push(cur.parser.Next(), cur.buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// pull reads at least a byte at the parser's place into dst: from the window, or
// from the server.
func (cur *cursor) pull(dst []byte) (int, error) {
	at := cur.parser.Next()
	cur.c.mu.Lock()
	n, ok := cur.c.window.read(at, dst)
	p := cur.c.place
	cur.c.mu.Unlock()
	if ok && n > 0 {
		cur.reread.close()
		return n, nil
	}
	return cur.reread.read(p, at, dst)
}

// Read implements [stores.Cursor].
func (cur *cursor) Read(limit tidegate.Position, bytesMax int) (stores.Unit, error) {
	if cur.given > 0 {
		cur.buf = cur.buf[:copy(cur.buf, cur.buf[cur.given:])]
		cur.given = 0
	}
	u := stores.Unit{First: cur.at.Position(), Next: cur.at.Position()}
	if limit <= u.First {
		return u, nil
	}
	if cur.parser == nil {
		if err := cur.find(cur.reread.ctx()); err != nil {
			return u, fmt.Errorf("read log at %s: %w", cur.at, err)
		}
	}
	end, err := cur.fill(wal.LSN(limit), bytesMax)
	if err != nil {
		return u, fmt.Errorf("read log at %s: %w", cur.at, err)
	}
	if end <= cur.at {
		return u, nil
	}
	t := cur.parser.TakeTally()
	u.Next, u.Records, u.Oldest, u.Newest = end.Position(), uint32(t.Commits), t.Oldest, t.Newest
	cur.given = int(end - cur.at)
	u.Payload = cur.buf[:cur.given:cur.given]
	cur.at = end
	return u, nil
}

// fill reads until a record ends beyond cur.at: up to limit and bytesMax at once,
// or as far as one record that is larger goes.
func (cur *cursor) fill(limit wal.LSN, bytesMax int) (end wal.LSN, err error) {
	want := min(limit, cur.at+wal.LSN(max(bytesMax, 1)))
	for {
		for cur.parser.Next() < want {
			if err := cur.more(want); err != nil {
				return 0, err
			}
		}
		switch end = cur.parser.End(); {
		case end > cur.at, want >= limit:
			return end, nil
		case want-cur.at > recordBytesMax:
			return 0, &tidegate.Error{
				Op: "read log", Subject: cur.at.String(), Class: tidegate.Permanent, Err: fmt.Errorf("a record of more than %d bytes: %w", recordBytesMax, tidegate.ErrUnsupported),
				Hint: "such a record comes of pg_logical_emit_message, or of a transaction with millions of subtransactions; a new generation goes on behind it",
			}
		}
		want = min(limit, want.PageStart()+wal.PageSize)
	}
}

// more pulls and parses once.
func (cur *cursor) more(want wal.LSN) error {
	room := int(want - cur.parser.Next())
	used := len(cur.buf)
	if cap(cur.buf)-used < room {
		grown := make([]byte, used, used+max(room, chunkBytes))
		copy(grown, cur.buf)
		cur.buf = grown
	}
	n, err := cur.pull(cur.buf[used : used+room])
	if err != nil {
		return err
	}
	cur.buf = cur.buf[:used+n]
	if err := cur.parser.Push(cur.parser.Next(), cur.buf[used:]); err != nil {
		cur.parser = nil
		return err
	}
	return nil
}

// Close implements [stores.Cursor].
func (cur *cursor) Close() error {
	cur.reread.close()
	return nil
}

// Reread implements [stores.Source].
func (c *Capture) Reread(ctx context.Context, first, next tidegate.Position) (tidegate.Digest, error) {
	c.spareMu.Lock()
	defer c.spareMu.Unlock()
	cur := c.spare
	c.spare = nil
	if cur == nil || cur.at != wal.LSN(first) || cur.parser == nil {
		if cur != nil {
			cur.reread.close()
		}
		cur = &cursor{c: c, at: wal.LSN(first)}
	}
	cur.reread = cur.reread.under(ctx, c)
	h := sha256.New()
	err := cur.digest(ctx, h, wal.LSN(next))
	if errors.Is(err, errNoRecord) {
		err = fmt.Errorf("%w: %w", tidegate.ErrNotFound, err)
	}
	if err != nil {
		cur.reread.close()
		return tidegate.Digest{}, fmt.Errorf("reread [%s, %s): %w", wal.LSN(first), wal.LSN(next), err)
	}
	c.spare = cur
	return tidegate.Digest(h.Sum(nil)[:16]), nil
}

func (cur *cursor) digest(ctx context.Context, h hash.Hash, next wal.LSN) error {
	if cur.parser == nil {
		if err := cur.find(ctx); err != nil {
			return err
		}
	}
	for cur.at < next {
		u, err := cur.Read(next.Position(), chunkBytes)
		if err != nil {
			return err
		}
		if len(u.Payload) == 0 {
			return fmt.Errorf("no record ends at %s after %s: %w", next, cur.at, tidegate.ErrNotFound)
		}
		h.Write(u.Payload)
	}
	return nil
}

func (c *Capture) dropSpare() {
	c.spareMu.Lock()
	defer c.spareMu.Unlock()
	if c.spare != nil {
		c.spare.reread.close()
		c.spare = nil
	}
}

var errNoRecord = errors.New("no record ends")

// trimmed makes the error of a place whose log the server no longer has.
func (c *Capture) trimmed(at wal.LSN, err error) error {
	if errors.Is(err, replication.ErrSegmentRemoved) {
		return c.generation("read log at", at.String(), fmt.Errorf("%w: %w", stores.ErrTrimmed, err))
	}
	return err
}
