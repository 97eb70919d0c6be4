package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// writeTimeout bounds one status: the server reads them all the time, so that a
// full socket means that nobody is there.
const writeTimeout = 10 * time.Second

// lastWords is how long a server is listened to that takes nothing more: one that
// shuts down closes its end as soon as it has said why.
const lastWords = time.Second

// StartOptions say from where to stream.
type StartOptions struct {
	Slot     string       // "" streams without one: the server may remove what we still need
	Timeline wal.Timeline // required; also an older one of the server's history
	From     wal.LSN      // any byte; usually the end of what we have
}

// Stream is a server's log in the making. See the package comment for who may call
// what when.
type Stream struct {
	target   string
	silence  time.Duration
	timeline wal.Timeline
	conn     net.Conn
	front    *pgproto3.Frontend

	// Of the goroutine that receives.
	next    wal.LSN   // the next byte that is due
	first   *Message  // received by Start
	armed   time.Time // when the read deadline was last set
	pinged  bool      // the server has been asked whether it lives
	reading error     // why Receive ended; it keeps saying so

	mu       sync.Mutex // of the sending side
	last     Status
	ended    error // why nothing more can be sent
	closed   bool
	status   [envelopeBytes + statusBytes]byte
	feedback [envelopeBytes + feedbackBytes]byte
}

// Start makes the connection a stream of log and waits until the server's first
// word, which is asked for: a server that has nothing to send says nothing, and one
// that lacks the log agrees first and refuses then. ctx bounds this call only; the
// connection belongs to the stream afterwards, and is closed when Start fails. The
// slot need not be read first, but only [Slot.Check] tells that it has lost its log
// from that the log was removed: a server may not.
//
// Errors wrap [ErrSlotMissing], [ErrSlotBusy], [ErrSlotLost], [ErrSegmentRemoved],
// [ErrAhead], [ErrTimeline], [ErrNotReady]; a [TimelineEnd] says that From is
// exactly where an older timeline ended.
func (c *Conn) Start(ctx context.Context, o StartOptions) (*Stream, error) {
	s, err := c.start(ctx, o)
	if err == nil {
		return s, nil
	}
	_ = c.Close() // the refusal is what counts
	if end := (*TimelineEnd)(nil); errors.As(err, &end) {
		return nil, end
	}
	return nil, diagnose("stream from", fmt.Sprintf("%s at %s", c.target, o.From), err)
}

func (c *Conn) start(ctx context.Context, o StartOptions) (*Stream, error) {
	command := "START_REPLICATION "
	if o.Slot != "" {
		if err := checkSlotName(o.Slot); err != nil {
			return nil, err
		}
		command += "SLOT " + o.Slot + " "
	}
	if o.Timeline == 0 {
		return nil, &tidegate.Error{Op: "stream from", Subject: c.target, Class: tidegate.Misuse, Err: errors.New("timeline: want one")}
	}
	id, err := c.Identify(ctx)
	if err != nil {
		return nil, err
	}
	command += fmt.Sprintf("PHYSICAL %s TIMELINE %s", o.From, o.Timeline)
	c.pg.Frontend().SendQuery(&pgproto3.Query{String: command})
	if err := c.pg.Frontend().Flush(); err != nil {
		return nil, err
	}
	if err := c.agreed(ctx, o.Timeline); err != nil {
		return nil, err
	}
	taken, err := c.pg.Hijack()
	if err != nil {
		return nil, err
	}
	s := &Stream{
		target: c.target, silence: c.cfg.SilenceMax, timeline: o.Timeline, next: o.From,
		conn: taken.Conn, front: taken.Frontend,
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // it ends the Receive below
	err = s.greet(o.Timeline != id.Timeline || o.From < id.End)
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil {
		_ = s.Close() // pgconn no longer owns the connection
		return nil, err
	}
	return s, nil
}

// agreed reads the answer to START_REPLICATION: copying begins, or the timeline
// has nothing after From.
func (c *Conn) agreed(ctx context.Context, t wal.Timeline) error {
	var end *TimelineEnd
	for {
		m, err := c.pg.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.DataRow:
			if end, err = timelineEnd(t, m); err != nil {
				return err
			}
		case *pgproto3.ReadyForQuery:
			if end == nil {
				return errors.New("the server neither streams nor says why")
			}
			return end
		case *pgproto3.CommandComplete, *pgproto3.RowDescription, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return fmt.Errorf("message %T in answer to START_REPLICATION", m)
		}
	}
}

// greet makes the server speak and keeps what it says. A keepalive is proof only
// where no log is due: the server answers us before it looks for the log.
func (s *Stream) greet(due bool) error {
	if err := s.Ping(); err != nil {
		return err
	}
	for {
		m, err := s.receive()
		if err != nil {
			return err
		}
		if !due || !m.Keepalive() {
			s.first = &m
			return nil
		}
	}
}

// timelineEnd reads the row (next_tli, next_tli_startpos).
func timelineEnd(ended wal.Timeline, row *pgproto3.DataRow) (*TimelineEnd, error) {
	if len(row.Values) < 2 {
		return nil, fmt.Errorf("end of timeline %s: a row of %d values", ended, len(row.Values))
	}
	next, errNext := wal.ParseTimeline(string(row.Values[0]))
	at, errAt := wal.ParseLSN(string(row.Values[1]))
	if err := errors.Join(errNext, errAt); err != nil {
		return nil, fmt.Errorf("end of timeline %s: %w", ended, err)
	}
	return &TimelineEnd{Timeline: ended, At: at, Next: next}, nil
}

// Receive waits for the server's next message. A server that is silent is asked
// for a word at half of [Config.SilenceMax]; the wait for a slow caller does not
// count. A keepalive that wants an answer is answered with the last status.
//
// Errors, which are final: a [TimelineEnd] after the last byte of the timeline;
// [ErrSegmentRemoved], [ErrSlotLost], [ErrNotReady] as the server says;
// [ErrSilent]; tidegate.ErrStopped after Close; tidegate.ErrGap when the server
// leaves out log; others when the connection breaks, transient ones.
func (s *Stream) Receive() (Message, error) {
	if s.reading != nil {
		return Message{}, s.reading
	}
	if s.first != nil {
		m := *s.first
		s.first = nil
		return m, nil
	}
	m, err := s.receive()
	if err != nil {
		s.reading = s.final(err)
		return Message{}, s.reading
	}
	return m, nil
}

func (s *Stream) receive() (Message, error) {
	for {
		m, err := s.read()
		if err != nil {
			return Message{}, err
		}
		switch m := m.(type) {
		case *pgproto3.CopyData:
			return s.accept(m.Data)
		case *pgproto3.CopyDone:
			return Message{}, s.finish()
		case *pgproto3.ErrorResponse:
			return Message{}, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.CommandComplete:
			// A server that shuts down says so in the midst of the copying, after all was flushed (walsender.c, WalSndDone).
			return Message{}, ErrShutDown
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return Message{}, fmt.Errorf("message %T in the stream", m)
		}
	}
}

// accept checks that the log goes on where it ended.
func (s *Stream) accept(b []byte) (Message, error) {
	m, err := decode(b)
	if err != nil {
		return m, err
	}
	if !m.Keepalive() {
		if m.Start != s.next {
			return Message{}, fmt.Errorf("log from %s on, want %s: %w", m.Start, s.next, tidegate.ErrGap)
		}
		s.next = m.Next()
	}
	if m.Reply {
		s.mu.Lock()
		defer s.mu.Unlock()
		_ = s.sendStatus(false) // who takes nothing more may have said why: the reading finds out
	}
	return m, nil
}

// read waits for any message, and asks the server for one when it is silent. A
// read that the deadline broke off goes on where it was: the frontend keeps what
// it has of a message.
func (s *Stream) read() (pgproto3.BackendMessage, error) {
	for {
		// Setting a deadline is dear beside a small message; an eighth is near enough.
		if now := time.Now(); now.Sub(s.armed) > s.silence/8 {
			if err := s.arm(now); err != nil {
				return nil, err
			}
		}
		m, err := s.front.Receive()
		if err == nil {
			s.pinged = false
			return m, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		if s.pinged {
			return nil, fmt.Errorf("%w for %s", ErrSilent, s.silence)
		}
		if err := s.Ping(); err != nil {
			return nil, err
		}
		s.pinged, s.armed = true, time.Time{}
	}
}

func (s *Stream) arm(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = now
	if s.ended != nil {
		return nil // the deadline stands
	}
	return s.conn.SetReadDeadline(now.Add(s.silence / 2))
}

// finish answers the end of the copying and reads where the timeline ended.
func (s *Stream) finish() error {
	if err := s.sayDone(); err != nil {
		return err
	}
	var end *TimelineEnd
	for {
		m, err := s.read()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.DataRow:
			if end, err = timelineEnd(s.timeline, m); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return s.whole(end)
		case *pgproto3.CommandComplete, *pgproto3.RowDescription, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.CopyData:
		default:
			return fmt.Errorf("message %T at the end of the stream", m)
		}
	}
}

// ErrShutDown ends a stream whose server shuts down: all of its log was sent, and
// confirmed by a flushed position. It wraps [ErrNotReady], which alone says less: the
// connection was terminated, or the server crashed.
var ErrShutDown = fmt.Errorf("%w: it ended the stream in order", ErrNotReady)

// whole checks that no byte of the ended timeline is missing.
func (s *Stream) whole(end *TimelineEnd) error {
	if end == nil {
		return errors.New("the server ended the stream and does not say why")
	}
	if end.At != s.next {
		return fmt.Errorf("timeline %s ended at %s, received to %s: %w", s.timeline, end.At, s.next, tidegate.ErrGap)
	}
	return end
}

func (s *Stream) sayDone() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.write([]byte{'c', 0, 0, 0, 4})
	if s.ended == nil {
		s.ended = &tidegate.Error{Op: "send status to", Subject: s.target, Class: tidegate.Transient, Err: tidegate.ErrStopped}
	}
	return err
}

// final words an error that ends the stream, and lets nothing more be sent.
func (s *Stream) final(err error) error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if end := (*TimelineEnd)(nil); errors.As(err, &end) {
		return end
	}
	if closed {
		err = &tidegate.Error{Op: "receive from", Subject: s.target, Class: tidegate.Transient, Err: tidegate.ErrStopped}
	} else {
		err = diagnose("receive from", s.target, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = err
	}
	return err
}

// Status tells the server how far we are. It should be told whenever a place
// moves, and at least every few seconds: any message counts as a sign of life, for
// which servers wait wal_sender_timeout (60 s), also while nobody receives. Places
// that go back are sent as they are; that they do not is the caller's promise.
func (s *Stream) Status(st Status) error {
	if err := st.Check(); err != nil {
		return &tidegate.Error{Op: "send status to", Subject: s.target, Class: tidegate.Misuse, Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = st
	return s.sendStatus(false)
}

// Ping sends the last status again and asks for a keepalive at once.
func (s *Stream) Ping() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sendStatus(true)
}

// Feedback tells the server which old rows a standby's reads still need.
func (s *Stream) Feedback(f Feedback) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	encodeFeedback(&s.feedback, f, time.Now())
	return s.write(s.feedback[:])
}

// sendStatus sends the last status; the caller holds mu.
func (s *Stream) sendStatus(reply bool) error {
	encodeStatus(&s.status, s.last, time.Now(), reply)
	return s.write(s.status[:])
}

// write sends a whole message; the caller holds mu.
func (s *Stream) write(b []byte) error {
	if s.ended != nil {
		return s.ended
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return diagnose("send status to", s.target, err)
	}
	if _, err := s.conn.Write(b); err != nil {
		s.ended = diagnose("send status to", s.target, err)
		_ = s.conn.SetReadDeadline(time.Now().Add(lastWords)) // a connection that takes no deadline is closed: the read says so
		return s.ended
	}
	return nil
}

// Close ends the stream, and a Receive that waits, without waiting for the server
// for more than a second. It may be called again.
func (s *Stream) Close() error {
	// A status that is stuck in the socket holds mu; it ends by its deadline.
	_ = s.conn.SetWriteDeadline(time.Now().Add(time.Second)) // closed already is as good
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.ended == nil {
		_, _ = s.conn.Write([]byte{'X', 0, 0, 0, 4}) // a courtesy: the server then ends without a complaint
	}
	s.ended = &tidegate.Error{Op: "send status to", Subject: s.target, Class: tidegate.Transient, Err: tidegate.ErrStopped}
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return diagnose("close stream from", s.target, err)
	}
	return nil
}
