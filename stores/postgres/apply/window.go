package apply

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/wal"
	"github.com/tidegate/tidegate/stores/postgres/walsender"
)

// window is the stretch of committed log between the session, which fills it, and
// the walsender's reader, which empties it.
//
// Invariants:
//  1. chunks are consecutive, none is empty, and the last one ends at end
//  2. held is their length together; a batch is taken only while it is below max
//  3. a reader is given a byte only if lineage says that it is of its timeline
//  4. what the node was told of as room never goes back while a session feeds
type window struct {
	max   int    // bytes
	freed func() // called when there is much more room than was told; must not block or call back

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	feeding bool          // the session feeds, from its Hello.End on
	chunks  []chunk
	held    int
	end     wal.LSN // exclusive end of what came in this session
	told    wal.LSN // end of the room that the node was told of last
	spare   [][]byte
	spared  int     // bytes that spare can hold
	reader  *reader // the newest; nil while the server asks for nothing
	lineage wal.Lineage
	known   bool    // lineage is
	limit   wal.LSN // committed, as the node last said; 0 when it has not
	seal    wal.LSN // H of a promotion that was begun: nothing beyond it is taken; 0 for none
}

// chunk is the bytes of a batch, less what overlapped, or of several small ones.
type chunk struct {
	first wal.LSN
	bytes []byte
	given bool // to a reader, in part at least: nothing is added to it
	lent  bool // to a reader that did not give it back: its buffer is used no more
}

func (c chunk) next() wal.LSN { return c.first + wal.LSN(len(c.bytes)) }

const (
	// windowBytesDefault is what hides the way between node and server. More would
	// only be more memory to go through: the node's log is the backlog.
	windowBytesDefault = 8 << 20
	// gatherBytes is up to where batches that nobody waits for are put together: what
	// the receiver is sent in one message at most.
	gatherBytes = 128 << 10
)

func newWindow(bytes int, freed func()) *window {
	return &window{max: bytes, freed: freed, changed: make(chan struct{})}
}

// tell wakes whoever waits; mu is held.
func (w *window) tell() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// wants returns where the session is to begin for the reader to go on: at from, or
// nowhere when rest is true. again is true when the session that runs is another one.
func (w *window) wants() (from wal.LSN, rest, again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reader == nil {
		return 0, true, false
	}
	pos := w.reader.pos
	return pos, false, !w.feeding || !w.reaches(pos)
}

// reaches reports whether the window holds the byte at p, or will get it next.
func (w *window) reaches(p wal.LSN) bool {
	if p == w.end {
		return true
	}
	return len(w.chunks) > 0 && w.chunks[0].first <= p && p < w.end
}

// watch returns a channel that is closed at the next change.
func (w *window) watch() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// begin empties the window for a session that feeds from a place on.
func (w *window) begin(from wal.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forsake()
	for len(w.chunks) > 0 {
		w.drop()
	}
	w.feeding, w.end, w.told = true, from, 0
	w.tell()
}

// finish says that the session has ended. What came in it can still be read.
func (w *window) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.feeding, w.limit = false, 0
	w.tell()
}

// drop releases the first chunk; mu is held.
func (w *window) drop() {
	c := w.chunks[0]
	w.chunks = append(w.chunks[:0], w.chunks[1:]...)
	w.held -= len(c.bytes)
	if !c.lent && w.spared+cap(c.bytes) <= w.max {
		w.spare = append(w.spare, c.bytes[:0])
		w.spared += cap(c.bytes)
	}
}

// forsake gives up the buffers that a reader may still be reading; mu is held.
func (w *window) forsake() {
	for i := range w.chunks {
		w.chunks[i].lent = true
	}
}

// bear takes the lineage of the batches that come from now on, and what is committed.
func (w *window) bear(l wal.Lineage, limit wal.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lineage, w.known, w.limit = l, true, max(w.limit, limit)
	w.tell()
}

// shut lets nothing in beyond a promotion's H; 0 takes that back.
func (w *window) shut(at wal.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seal = at
}

// stir wakes who watches: something that they look at beside the window has changed.
func (w *window) stir() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell()
}

// committed returns the end of what the node said is committed; 0 when it has not.
func (w *window) committed() wal.LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit
}

// came returns the end of what came in this session.
func (w *window) came() (end wal.LSN, feeding bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end, w.feeding
}

// history returns the lineage and what is committed of it.
func (w *window) history() (l wal.Lineage, limit wal.LSN, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lineage, w.limit, w.known
}

// room returns where the room for batches ends, for the node to be told of.
func (w *window) room() wal.LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = w.roomEnd()
	return w.told
}

// roomEnd is where a batch must begin before; mu is held.
func (w *window) roomEnd() wal.LSN { return w.end - wal.LSN(w.held) + wal.LSN(w.max) }

// take copies a batch in, for which there is room: the node keeps to what it was
// told. It never waits.
func (w *window) take(m *local.Batch) error {
	first, next := wal.LSN(m.First), wal.LSN(m.Next)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.feeding:
		return fmt.Errorf("batch %s came in a session that rests", m.Seq)
	case first > w.end:
		return &tidegate.Error{
			Op: "feed warm server", Subject: "batch " + m.Seq.String(), Class: tidegate.Permanent, Err: fmt.Errorf("it begins at %s, the server needs %s: %w", first, w.end, tidegate.ErrGap),
			Hint: "the log goes on in a newer generation, or was trimmed: the warm server has to be restored from a newer base",
		}
	case w.seal != 0 && next > w.seal:
		return &tidegate.Error{
			Op: "feed warm server", Subject: "batch " + m.Seq.String(), Class: tidegate.Permanent,
			Err: fmt.Errorf("it reaches to %s, the promotion is at %s: %w", next, w.seal, tidegate.ErrDiverged),
		}
	case next <= w.end:
		return nil
	case first >= w.roomEnd():
		return fmt.Errorf("batch %s begins at %s, and there is room to %s", m.Seq, first, w.roomEnd())
	}
	w.add(m.Payload[w.end-first:])
	w.end = next
	w.limit = max(w.limit, next)
	w.tell()
	return nil
}

// add puts b behind what there is: to the last chunk, if nobody has begun with that
// and both are small; mu is held.
func (w *window) add(b []byte) {
	w.held += len(b)
	if n := len(w.chunks); n > 0 && !w.chunks[n-1].given && len(w.chunks[n-1].bytes)+len(b) <= gatherBytes {
		c := &w.chunks[n-1]
		c.bytes = append(c.bytes, b...)
		return
	}
	w.chunks = append(w.chunks, chunk{first: w.end, bytes: append(w.buffer(), b...)})
}

// buffer returns an empty buffer; mu is held.
func (w *window) buffer() []byte {
	n := len(w.spare)
	if n == 0 {
		return nil
	}
	b := w.spare[n-1]
	w.spare = w.spare[:n-1]
	w.spared -= cap(b)
	return b
}

// open makes a reader, which takes the place of any that there is.
func (w *window) open(t wal.Timeline, from wal.LSN) (*reader, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.admit(t, from); err != nil {
		return nil, err
	}
	r := &reader{w: w, timeline: t, pos: from}
	w.reader = r
	w.forsake()
	w.pass(from)
	w.tell()
	return r, nil
}

// admit refuses a place that the log does not have; mu is held. Until the node has
// told the lineage nothing can be said of it.
func (w *window) admit(t wal.Timeline, from wal.LSN) error {
	if !w.known {
		return errUnknown
	}
	// A place before the timeline's start is right: its first segment begins with
	// the bytes of the timeline before (xlog.c, XLogInitNewTimeline).
	if _, ours := w.lineage.Start(t); !ours {
		return &walsender.HistoryError{Timeline: t, Asked: from}
	}
	next, end, ended := w.lineage.End(t)
	switch {
	case ended && from > end:
		return &walsender.HistoryError{Timeline: t, Asked: from, ForkedAt: end}
	case ended && from == end:
		return &walsender.TimelineEnd{At: end, Next: next}
	case w.limit != 0 && from > w.limit:
		return &walsender.AheadError{Asked: from, End: w.limit}
	}
	return nil
}

var errUnknown = &tidegate.Error{
	Op: "open log", Class: tidegate.Transient, Err: errors.New("the node has not told the log's history yet"),
}

// pass releases what lies before p; mu is held.
func (w *window) pass(p wal.LSN) {
	for len(w.chunks) > 0 && w.chunks[0].next() <= p {
		w.drop()
	}
	if w.feeding && w.told != 0 && w.roomEnd()-w.told >= wal.LSN(w.max/4) {
		w.freed()
	}
}

// reader implements [walsender.Reader].
type reader struct {
	w        *window
	timeline wal.Timeline
	pos      wal.LSN // the next byte to be given; guarded by the window's mu
}

var errReplaced = &tidegate.Error{Op: "read log", Class: tidegate.Transient, Err: errors.New("another receiver has taken its place")}

// Next implements [walsender.Reader].
func (r *reader) Next(ctx context.Context) (wal.LSN, []byte, error) {
	w := r.w
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.reader != r {
			return 0, nil, errReplaced
		}
		w.pass(r.pos)
		next, end, ended := w.lineage.End(r.timeline)
		if ended && r.pos >= end {
			return 0, nil, r.over(next, end)
		}
		if len(w.chunks) > 0 && w.chunks[0].first <= r.pos {
			w.chunks[0].given = true
			first, c := r.pos, w.chunks[0]
			to := c.next()
			if ended {
				to = min(to, end)
			}
			r.pos = to
			return first, c.bytes[first-c.first : to-c.first], nil
		}
		changed := w.changed
		w.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		}
		w.mu.Lock()
		if err != nil {
			return 0, nil, err
		}
	}
}

// over is how a timeline ends; a reader that was given more of it was given what
// is not part of the log.
func (r *reader) over(next wal.Timeline, end wal.LSN) error {
	if r.pos > end {
		return &walsender.HistoryError{Timeline: r.timeline, Asked: r.pos, ForkedAt: end}
	}
	return &walsender.TimelineEnd{At: end, Next: next}
}

// Close implements [walsender.Reader].
func (r *reader) Close() error {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if r.w.reader == r {
		r.w.reader = nil
		r.w.tell()
	}
	return nil
}
