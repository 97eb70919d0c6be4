package walsender

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// messageBytes bounds the log in one message, as MAX_SEND_SIZE does: 16 pages.
const messageBytes = 16 * wal.PageSize

// recordAlign is what a record's end is a multiple of.
const recordAlign = 8

// errSource is the cause when a [Reader] gave what it must not.
var errSource = errors.New("log does not continue")

// stream is one streaming of log. Three goroutines share it: fetch asks the
// reader, send owns the connection's writing side, receive its reading side.
type stream struct {
	Stream
	c       *session
	id      Identity // when it began
	reader  Reader
	since   time.Time
	started bool // in the sense of fetch: the first range has come

	asked  chan struct{} // one place: somebody wants the receiver's status
	pinged chan struct{} // one place: the receiver wants a keepalive
	ranges chan []byte   // fetch to send; the bytes are borrowed until taken
	taken  chan struct{} // one place: send to fetch

	fetched    chan struct{} // closed when fetch has returned fetchErr
	fetchErr   error
	received   chan struct{} // closed when receive has returned receiveErr
	receiveErr error

	sent   atomic.Uint64
	status atomic.Pointer[Status]

	// Of send alone; kept here so that a message allocates nothing.
	pos       wal.LSN // exclusive end of what was sent
	header    [logHeaderBytes]byte
	keepalive [keepaliveBytes]byte
	parts     [2][]byte
	vector    net.Buffers
}

// start answers START_REPLICATION. An error ends the session.
func (c *session) start(ctx context.Context, cmd command) error {
	id, err := c.srv.source.Identity(ctx)
	if err != nil {
		return c.refuse(ofLog(err))
	}
	tli := cmd.timeline
	if tli == 0 {
		tli = id.Timeline
	}
	reader, err := c.srv.source.Open(ctx, tli, cmd.from)
	var end *TimelineEnd
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return c.fatal(refuse("57P01", "%s", errShutdown), errShutdown)
	case errors.As(err, &end) && end.At == cmd.from:
		return c.follow(end)
	case errors.As(err, &end):
		return c.refuse(ofOpen(&HistoryError{Timeline: tli, Asked: cmd.from, ForkedAt: end.At}, id, tli, cmd.from))
	default:
		return c.refuse(ofOpen(err, id, tli, cmd.from))
	}
	t := &stream{
		Stream: Stream{Session: c.id, Application: c.application, Slot: cmd.name, Timeline: tli, From: cmd.from},
		c:      c, id: id, reader: reader, since: c.srv.clk.Wall(), pos: cmd.from,
		asked: make(chan struct{}, 1), pinged: make(chan struct{}, 1), ranges: make(chan []byte), taken: make(chan struct{}, 1),
		fetched: make(chan struct{}), received: make(chan struct{}),
	}
	t.sent.Store(uint64(cmd.from))
	err = t.run(ctx)
	if errClose := reader.Close(); errClose != nil {
		c.log.Warn("log not closed", "err", errClose) // it was only read
	}
	return err
}

// run streams until one of the parties ends it. After an error the session is
// over; the receiver has been told what there is to tell.
func (t *stream) run(ctx context.Context) error {
	t.c.be.Send(&pgproto3.CopyBothResponse{})
	if err := t.c.be.Flush(); err != nil {
		return err
	}
	t.enter()
	inner, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(func() { t.fetchErr = t.fetch(inner); close(t.fetched) })
	both.Go(func() { t.receiveErr = t.receive(); close(t.received) })
	end, err := t.send(ctx)
	cancel()
	if err != nil && !errors.Is(err, syscall.EPIPE) { // of a receiver that has gone, receive finds the last words
		_ = t.c.conn.SetReadDeadline(time.Unix(1, 0)) // frees receive; nobody reads after it
	}
	both.Wait()
	if err != nil && errors.Is(t.receiveErr, errTerminated) {
		err = errTerminated // it said goodbye while we wrote
	}
	t.leave(err)
	if err != nil {
		return err
	}
	return t.c.follow(end)
}

// enter makes the stream known, leave forgets it.
func (t *stream) enter() {
	s := t.c.srv
	s.mu.Lock()
	s.streams[t.Session] = t
	s.mu.Unlock()
	t.c.log.Info("streaming", "timeline", uint32(t.Timeline), "from", t.From.String(), "slot", t.Slot)
	if s.events.Started != nil {
		s.events.Started(t.Stream)
	}
}

func (t *stream) leave(err error) {
	s := t.c.srv
	s.mu.Lock()
	delete(s.streams, t.Session)
	s.mu.Unlock()
	if errors.Is(err, errTerminated) || errors.Is(err, errShutdown) {
		err = nil
	}
	t.c.log.Info("streaming ended", "timeline", uint32(t.Timeline), "at", t.pos.String(), "err", err)
	if s.events.Ended != nil {
		s.events.Ended(t.Stream, err)
	}
}

// follow ends a START_REPLICATION in good order. end is nil when the receiver
// wished it. PostgreSQL completes the command twice, and libpq's walreceiver
// counts on it (exec_replication_command, libpqrcv_endstreaming).
func (c *session) follow(end *TimelineEnd) error {
	if end != nil {
		c.row(number("next_tli", end.Next.String()), text("next_tli_startpos", end.At.String()))
	}
	c.be.Send(&pgproto3.CommandComplete{CommandTag: []byte("START_STREAMING")})
	return c.done(startStreaming)
}

// fetch hands the reader's ranges to send, each when the one before is sent.
func (t *stream) fetch(ctx context.Context) error {
	next := t.From
	for {
		start, b, err := t.reader.Next(ctx)
		var end *TimelineEnd
		if errors.As(err, &end) && end.At != next {
			return fmt.Errorf("%w: timeline %s ended at %s, but was sent up to %s", errSource, t.Timeline, end.At, next)
		} else if err != nil {
			return err
		}
		if b, err = t.fit(start, b, next); err != nil {
			return err
		}
		select {
		case t.ranges <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case <-t.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
		next += wal.LSN(len(b))
	}
}

// fit checks a range against what [Reader.Next] promises and cuts off what the
// receiver did not ask for.
func (t *stream) fit(start wal.LSN, b []byte, next wal.LSN) ([]byte, error) {
	end := start + wal.LSN(len(b))
	switch {
	case start > next, end <= next, start < next && t.started:
		return nil, fmt.Errorf("%w: range from %s to %s where %s was next", errSource, start, end, next)
	case end%recordAlign != 0:
		return nil, fmt.Errorf("%w: range ends at %s, where no record does", errSource, end)
	}
	t.started = true
	return b[next-start:], nil
}

// send writes log and keepalives until the stream ends. Outcomes: nil when it
// ended in good order and the next command may come, with the end of the
// timeline if it was that; an error when the session is over.
func (t *stream) send(ctx context.Context) (*TimelineEnd, error) {
	tick := time.NewTicker(t.c.srv.cfg.KeepaliveEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case b := <-t.ranges:
			err = t.sendRange(b)
			t.taken <- struct{}{}
		case <-t.pinged:
			err = t.sendKeepalive(false)
		case <-t.asked:
			err = t.sendKeepalive(true)
		case <-tick.C:
			err = t.sendKeepalive(false)
		case <-ctx.Done():
			return nil, t.shutdown()
		case <-t.received:
			return nil, t.receiverEnded(ctx)
		case <-t.fetched:
			return t.logEnded(ctx)
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, errors.Join(errShutdown, err)
		case err != nil:
			return nil, err
		}
	}
}

// sendRange sends a range in messages that end where a receiver can take it:
// at the range's end, which is a record's, or at a page boundary. It returns
// early only when the receiver wants no more: also at a shutdown, as long as
// CloseTimeout allows, a receiver is left at a record's end.
func (t *stream) sendRange(b []byte) error {
	start, end := t.pos, t.pos+wal.LSN(len(b))
	for t.pos < end {
		cut := wal.SafeCut(t.pos, end, messageBytes)
		if err := t.sendLog(b[t.pos-start:cut-start], end); err != nil {
			return err
		}
		select {
		case <-t.received:
			if !errors.Is(t.receiveErr, os.ErrDeadlineExceeded) { // which is our own shutdown
				return nil
			}
		case <-t.pinged:
			if err := t.sendKeepalive(false); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

// sendLog sends one message without copying the log into it.
func (t *stream) sendLog(b []byte, end wal.LSN) error {
	putLogHeader(&t.header, t.pos, len(b), end, t.c.srv.clk.Wall())
	t.parts = [2][]byte{t.header[:], b}
	t.vector = t.parts[:]
	if _, err := t.vector.WriteTo(t.c.conn); err != nil {
		return err
	}
	t.pos += wal.LSN(len(b))
	t.sent.Store(uint64(t.pos))
	return nil
}

func (t *stream) sendKeepalive(reply bool) error {
	putKeepalive(&t.keepalive, t.pos, t.c.srv.clk.Wall(), reply)
	_, err := t.c.conn.Write(t.keepalive[:])
	return err
}

// shutdown tells the receiver that the server stops, as a primary's walsender
// does once it has sent all: the copy's command completes without its CopyDone.
func (t *stream) shutdown() error {
	t.c.be.Send(&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")})
	return errors.Join(errShutdown, t.c.be.Flush())
}

// receiverEnded answers a receiver that stops before the log does.
func (t *stream) receiverEnded(ctx context.Context) error {
	switch {
	case t.receiveErr == nil:
		t.c.be.Send(&pgproto3.CopyDone{})
		return t.c.be.Flush()
	case ctx.Err() != nil:
		return t.shutdown()
	case errors.Is(t.receiveErr, errReceiver):
		return t.c.fatal(refuse("08P01", "%s", t.receiveErr), t.receiveErr)
	}
	return t.receiveErr
}

// logEnded tells the receiver why there is no more log.
func (t *stream) logEnded(ctx context.Context) (*TimelineEnd, error) {
	var end *TimelineEnd
	switch {
	case ctx.Err() != nil:
		return nil, t.shutdown()
	case !errors.As(t.fetchErr, &end):
		return nil, t.c.fatal(ofOpen(t.fetchErr, t.id, t.Timeline, t.pos), t.fetchErr)
	}
	t.c.be.Send(&pgproto3.CopyDone{})
	if err := t.c.be.Flush(); err != nil {
		return nil, err
	}
	<-t.received
	switch {
	case t.receiveErr == nil:
		return end, nil
	case ctx.Err() != nil:
		return nil, errors.Join(errShutdown, t.receiveErr)
	}
	return nil, t.receiveErr
}

// receive reads what the receiver says until it ends the copy, which is nil.
func (t *stream) receive() error {
	for {
		m, err := t.c.be.Receive()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			err = t.heard(m.Data)
		case *pgproto3.CopyDone:
			return nil
		case *pgproto3.Terminate:
			return errTerminated
		default:
			err = fmt.Errorf("%w: unexpected standby message %T", errReceiver, m)
		}
		if err != nil {
			return err
		}
	}
}

// heard takes one message from inside the copy.
func (t *stream) heard(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: empty message", errReceiver)
	}
	s := t.c.srv
	switch b[0] {
	case 'r':
		status, ping, err := parseStatus(b)
		if err != nil {
			return err
		}
		t.status.Store(&status)
		if t.Slot != "" {
			s.mu.Lock()
			s.slots.flushed(t.Slot, t.Timeline, status.Flush)
			s.mu.Unlock()
		}
		if s.events.Status != nil {
			s.events.Status(t.Stream, status)
		}
		if ping {
			poke(t.pinged)
		}
	case 'h':
		f, err := parseFeedback(b)
		if err != nil {
			return err
		}
		if s.events.Feedback != nil {
			s.events.Feedback(t.Stream, f)
		}
	default:
		return fmt.Errorf("%w: unexpected message type %q", errReceiver, b[0])
	}
	return nil
}

// state may be asked for from any goroutine.
func (t *stream) state() StreamState {
	state := StreamState{Stream: t.Stream, Since: t.since, Sent: wal.LSN(t.sent.Load())}
	if s := t.status.Load(); s != nil {
		state.Status = *s
	}
	return state
}
