package walsender

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// heard is a list of what events told, in words.
type heard struct {
	mu    sync.Mutex
	lines []string
}

func (h *heard) add(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, fmt.Sprintf(format, args...))
}

func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	lines := h.lines
	h.lines = nil
	return lines
}

func (h *heard) events() Events {
	return Events{
		Started:  func(s Stream) { h.add("started %d %s %s %s %q", s.Session, s.Application, s.Timeline, s.From, s.Slot) },
		Status:   func(s Stream, st Status) { h.add("status %d %s %s %s", s.Session, st.Write, st.Flush, st.Apply) },
		Feedback: func(s Stream, f Feedback) { h.add("feedback %d %d:%d", s.Session, f.XminEpoch, f.Xmin) },
		Ended:    func(s Stream, err error) { h.add("ended %d %v", s.Session, err) },
	}
}

// server is a Server without a socket: connections are pipes.
type server struct {
	*Server
	heard  heard
	ctx    context.Context
	stop   context.CancelFunc
	served sync.WaitGroup
}

func newServer(t *testing.T, log Log) *server {
	t.Helper()
	s := &server{}
	var err error
	s.Server, err = New(log, vfs.NewMem(), clock.NewFake(goldenTime), slog.New(slog.DiscardHandler), Config{Directory: "/run/x", SessionsMax: 3}, s.heard.events())
	if err != nil {
		t.Fatal(err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	t.Cleanup(func() {
		s.stop()
		s.served.Wait()
	})
	return s
}

// receiver is the other end of a session.
type receiver struct {
	t    *testing.T
	conn net.Conn
	fe   *pgproto3.Frontend
}

func (s *server) connect(t *testing.T) *receiver {
	t.Helper()
	ours, theirs := net.Pipe()
	s.served.Go(func() { s.serve(s.ctx, ours) })
	t.Cleanup(func() { theirs.Close() })
	return &receiver{t: t, conn: theirs, fe: pgproto3.NewFrontend(theirs, theirs)}
}

// start connects, says hello and takes what comes up to ReadyForQuery.
func (s *server) start(t *testing.T) *receiver {
	t.Helper()
	r := s.connect(t)
	if got := r.hello(map[string]string{"user": "x", "replication": "true", "application_name": "dr"}); !strings.HasSuffix(got, "Z") {
		t.Fatalf("start: %s", got)
	}
	return r
}

func (r *receiver) hello(parameters map[string]string) string {
	r.t.Helper()
	r.fe.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: parameters})
	r.flush()
	return r.answer()
}

func (r *receiver) flush() {
	r.t.Helper()
	if err := r.fe.Flush(); err != nil {
		r.t.Fatalf("send: %v", err)
	}
}

func (r *receiver) query(text string) string {
	r.t.Helper()
	r.fe.Send(&pgproto3.Query{String: text})
	r.flush()
	return r.answer()
}

// answer reads up to ReadyForQuery, CopyBoth or the end, and says it in words.
func (r *receiver) answer() string {
	var words []string
	for {
		w := r.word()
		words = append(words, w)
		if w == "Z" || w == "W" || w == "c" || w == "EOF" || strings.HasPrefix(w, "FATAL") {
			return strings.Join(words, " | ")
		}
	}
}

func (r *receiver) word() string {
	m, err := r.fe.Receive()
	switch m := m.(type) {
	case nil:
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) {
			return "EOF"
		}
		return err.Error()
	case *pgproto3.AuthenticationOk:
		return "R"
	case *pgproto3.ParameterStatus:
		return m.Name + "=" + m.Value
	case *pgproto3.BackendKeyData:
		return "K"
	case *pgproto3.NegotiateProtocolVersion:
		return fmt.Sprintf("v %d %v", m.NewestMinorProtocol, m.UnrecognizedOptions)
	case *pgproto3.ReadyForQuery:
		return "Z"
	case *pgproto3.RowDescription:
		var names []string
		for _, f := range m.Fields {
			names = append(names, string(f.Name))
		}
		return "T " + strings.Join(names, " ")
	case *pgproto3.DataRow:
		var values []string
		for _, v := range m.Values {
			if v == nil {
				values = append(values, "NULL")
			} else {
				values = append(values, fmt.Sprintf("%q", v))
			}
		}
		return "D " + strings.Join(values, " ")
	case *pgproto3.CommandComplete:
		return "C " + string(m.CommandTag)
	case *pgproto3.ErrorResponse:
		w := fmt.Sprintf("%s %s %s", m.Severity, m.Code, m.Message)
		if m.Detail != "" {
			w += " DETAIL " + m.Detail
		}
		if m.Hint != "" {
			w += " HINT " + m.Hint
		}
		return w
	case *pgproto3.CopyBothResponse:
		return "W"
	case *pgproto3.CopyDone:
		return "c"
	case *pgproto3.CopyData:
		return copyWord(m.Data)
	default:
		return fmt.Sprintf("%T", m)
	}
}

// copyWord checks log byte for byte and says the rest in words.
func copyWord(b []byte) string {
	at := func(i int) wal.LSN { return wal.LSN(binary.BigEndian.Uint64(b[i:])) }
	switch b[0] {
	case 'k':
		return fmt.Sprintf("k %s %d", at(1), b[17])
	case 'w':
		start, data := at(1), b[25:]
		for i := range data {
			if data[i] != byteAt(start+wal.LSN(i)) {
				return fmt.Sprintf("w %s: byte %d is wrong", start, i)
			}
		}
		return fmt.Sprintf("w %s-%s of %s", start, start+wal.LSN(len(data)), at(9))
	}
	return fmt.Sprintf("%q", b)
}

// say sends one message inside the copy.
func (r *receiver) say(b []byte) {
	r.t.Helper()
	r.fe.Send(&pgproto3.CopyData{Data: b})
	r.flush()
}

func (r *receiver) status(write, flush, apply wal.LSN, ping bool) {
	r.t.Helper()
	b := []byte{'r'}
	for _, v := range []wal.LSN{write, flush, apply, 0} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	b = append(b, 0)
	if ping {
		b[33] = 1
	}
	r.say(b)
}

func (r *receiver) wantWords(want ...string) {
	r.t.Helper()
	for _, w := range want {
		if got := r.word(); got != w {
			r.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func (r *receiver) want(got, want string) {
	r.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Error(diff)
	}
}

func TestHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newMemLog(0x1000000, 0x2000100))
		r := s.connect(t)
		for _, ask := range []pgproto3.FrontendMessage{&pgproto3.GSSEncRequest{}, &pgproto3.SSLRequest{}} {
			r.fe.Send(ask)
			r.flush()
			var b [1]byte
			if _, err := io.ReadFull(r.conn, b[:]); err != nil || b[0] != 'N' {
				t.Fatalf("%T: got %q, %v", ask, b, err)
			}
		}
		r.want(r.hello(map[string]string{"user": "x", "replication": "on", "application_name": "dr"}),
			"R | server_version=15.18 | server_encoding=UTF8 | client_encoding=UTF8 | application_name=dr | DateStyle=ISO, MDY | "+
				"IntervalStyle=postgres | TimeZone=GMT | integer_datetimes=on | standard_conforming_strings=on | K | Z")
		r.fe.Send(&pgproto3.Terminate{})
		r.flush()
		r.want(r.answer(), "EOF")
	})
}

func TestHandshakeRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(0x1000000, 0x2000100)
		s := newServer(t, log)
		r := s.connect(t)
		r.want(r.hello(map[string]string{"user": "x", "replication": "database", "database": "x"}),
			"FATAL 0A000 only physical replication connections are served here HINT This is Tidegate, not a PostgreSQL server; connect to the standby itself.")
		r = s.connect(t)
		r.fe.Send(&pgproto3.CancelRequest{ProcessID: 1, SecretKey: make([]byte, 4)})
		r.flush()
		r.want(r.answer(), "EOF")

		log.change(func() { log.identity = errors.New("dial: nobody there") })
		r = s.connect(t)
		r.want(r.hello(map[string]string{"replication": "1"}), "FATAL 58030 dial: nobody there")
		log.change(func() { log.identity = nil })

		synctest.Wait()
		for range 3 {
			s.start(t)
		}
		r = s.connect(t)
		r.want(r.hello(map[string]string{"replication": "1"}), "FATAL 53300 number of requested standby connections exceeds max_wal_senders (currently 3)")

		// One that says nothing is not waited for for ever.
		r = s.connect(t)
		at := time.Now()
		r.want(r.answer(), "EOF")
		if took := time.Since(at); took != 10*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestNegotiatesOlderProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newMemLog(0x1000000, 0x2000100))
		r := s.connect(t)
		r.fe.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion32, Parameters: map[string]string{"replication": "true", "_pq_.x": "1"}})
		r.flush()
		if got := r.answer(); !strings.HasPrefix(got, "v 0 [_pq_.x] | R |") {
			t.Error(got)
		}
	})
}

func TestCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(0x1000000, 0x2000100)
		log.promote()
		log.grow(0x2000200)
		s := newServer(t, log)
		r := s.start(t)
		for _, tc := range []struct{ text, want string }{
			{"IDENTIFY_SYSTEM", `T systemid timeline xlogpos dbname | D "7301234567890123456" "2" "0/2000200" NULL | C IDENTIFY_SYSTEM | Z`},
			{"SHOW wal_segment_size", `T wal_segment_size | D "16MB" | C SHOW | Z`},
			{"SHOW data_directory_mode", `T data_directory_mode | D "0700" | C SHOW | Z`},
			{"SHOW server_version", `T server_version | D "15.18" | C SHOW | Z`},
			{"SHOW work_mem", `ERROR 42704 unrecognized configuration parameter "work_mem" | Z`},
			{"TIMELINE_HISTORY 2", `T filename content | D "00000002.history" "1\t0/2000100\ttest\n" | C TIMELINE_HISTORY | Z`},
			{"TIMELINE_HISTORY 1", `ERROR 58P01 could not open file "pg_wal/00000001.history": No such file or directory | Z`},
			{"READ_REPLICATION_SLOT a", `T slot_type restart_lsn restart_tli | D NULL NULL NULL | C READ_REPLICATION_SLOT | Z`},
			{"CREATE_REPLICATION_SLOT a PHYSICAL", `T slot_name consistent_point snapshot_name output_plugin | D "a" "0/0" NULL NULL | C CREATE_REPLICATION_SLOT | Z`},
			{"CREATE_REPLICATION_SLOT a PHYSICAL", `ERROR 42710 replication slot "a" already exists | Z`},
			{"CREATE_REPLICATION_SLOT b TEMPORARY PHYSICAL", `T slot_name consistent_point snapshot_name output_plugin | D "b" "0/0" NULL NULL | C CREATE_REPLICATION_SLOT | Z`},
			{"READ_REPLICATION_SLOT a", `T slot_type restart_lsn restart_tli | D "physical" NULL NULL | C READ_REPLICATION_SLOT | Z`},
			{"DROP_REPLICATION_SLOT a", `C DROP_REPLICATION_SLOT | Z`},
			{"DROP_REPLICATION_SLOT a", `ERROR 42704 replication slot "a" does not exist | Z`},
			{"START_REPLICATION 0/0 TIMELINE 1", `ERROR 58P01 requested WAL segment 000000010000000000000000 has already been removed | Z`},
			{"START_REPLICATION 0/2000208 TIMELINE 2", `ERROR XX000 requested starting point 0/2000208 is ahead of the WAL flush position of this server 0/2000200 | Z`},
			{"START_REPLICATION 0/2000108 TIMELINE 1", `ERROR XX000 requested starting point 0/2000108 on timeline 1 is not in this server's history DETAIL This server's history forked from timeline 1 at 0/2000100. | Z`},
			{"START_REPLICATION 0/2000100 TIMELINE 3", `ERROR XX000 requested timeline 3 is not in this server's history | Z`},
			{"START_REPLICATION 0/2000100 TIMELINE 1", `T next_tli next_tli_startpos | D "2" "0/2000100" | C START_STREAMING | C START_REPLICATION | Z`},
			{"SELECT 1", `ERROR 42601 syntax error at or near "SELECT" | Z`},
			{"BASE_BACKUP", `ERROR 0A000 command is not supported by this server: BASE_BACKUP | Z`},
			{"READ_REPLICATION_SLOT A;", `T slot_type restart_lsn restart_tli | D NULL NULL NULL | C READ_REPLICATION_SLOT | Z`},
			{`READ_REPLICATION_SLOT "A"`, `ERROR 42602 invalid replication slot name: replication slot name "A" contains invalid character | Z`},
			{strings.Repeat("x", 5000), `ERROR 54000 command too long | Z`},
		} {
			if diff := cmp.Diff(tc.want, r.query(tc.text)); diff != "" {
				t.Errorf("%s: %s", tc.text, diff)
			}
		}
		r.fe.Send(&pgproto3.Terminate{})
		r.flush()
		synctest.Wait()
		if len(s.slots) != 0 {
			t.Errorf("slots left: %v", s.slots)
		}
		if got := s.heard.take(); got != nil {
			t.Errorf("events without a stream: %v", got)
		}
	})
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(0x1000000, 0x1000100)
		s := newServer(t, log)
		s.start(t) // another receiver, which asks nothing
		r := s.start(t)
		r.query("CREATE_REPLICATION_SLOT a PHYSICAL")
		r.want(r.query("START_REPLICATION SLOT a 0/1000010 TIMELINE 1"), "W")
		r.wantWords("w 0/1000010-0/1000100 of 0/1000100")
		log.grow(0x1000108)
		r.wantWords("w 0/1000100-0/1000108 of 0/1000108")
		r.status(0x1000100, 0x1000108, 0x1000008, false)
		r.status(0x1000108, 0x1000108, 0x1000108, true)
		r.wantWords("k 0/1000108 0")
		r.say(append([]byte{'h'}, make([]byte, 24)...))

		// More than a message at once: cut at pages.
		log.grow(0x1000108 + 300<<10)
		r.wantWords("w 0/1000108-0/1020000 of 0/104B108", "w 0/1020000-0/1040000 of 0/104B108", "w 0/1040000-0/104B108 of 0/104B108")

		at := time.Now()
		r.wantWords("k 0/104B108 0")
		if took := time.Since(at); took > 10*time.Second || took == 0 {
			t.Errorf("keepalive after %s", took)
		}
		s.RequestStatus()
		r.wantWords("k 0/104B108 1")
		states := s.Streams()
		if len(states) != 1 || states[0].Sent != 0x104B108 || states[0].Status.Apply != 0x1000108 || !states[0].Since.Equal(goldenTime) {
			t.Errorf("streams: %+v", states)
		}

		// The receiver ends it, and may go on with another command.
		r.fe.Send(&pgproto3.CopyDone{})
		r.flush()
		r.want(r.answer(), "c")
		r.want(r.answer(), "C START_STREAMING | C START_REPLICATION | Z")
		r.want(r.query("READ_REPLICATION_SLOT a"), `T slot_type restart_lsn restart_tli | D "physical" "0/1000108" "1" | C READ_REPLICATION_SLOT | Z`)
		want := []string{
			`started 2 dr 1 0/1000010 "a"`, "status 2 0/1000100 0/1000108 0/1000008", "status 2 0/1000108 0/1000108 0/1000108",
			"feedback 2 0:0", "ended 2 <nil>",
		}
		if diff := cmp.Diff(want, s.heard.take()); diff != "" {
			t.Error(diff)
		}
		if n := log.opened(); n != 0 || len(s.Streams()) != 0 {
			t.Errorf("%d readers and %d streams left", n, len(s.Streams()))
		}
	})
}

func TestFirstRangeMayBeginEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(0x1000000, 0x1003000)
		log.ahead = 0x1000
		r := newServer(t, log).start(t)
		r.want(r.query("START_REPLICATION 0/1002000"), "W")
		r.wantWords("w 0/1002000-0/1003000 of 0/1003000")
	})
}

func TestTimelineEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(0x1000000, 0x1000100)
		s := newServer(t, log)
		r := s.start(t)
		r.want(r.query("START_REPLICATION 0/1000000 TIMELINE 1"), "W")
		r.wantWords("w 0/1000000-0/1000100 of 0/1000100")
		log.promote()
		r.want(r.answer(), "c")
		r.status(0x1000100, 0x1000100, 0, true)
		r.fe.Send(&pgproto3.CopyDone{})
		r.flush()
		r.want(r.answer(), `T next_tli next_tli_startpos | D "2" "0/1000100" | C START_STREAMING | C START_REPLICATION | Z`)
		log.grow(0x1000200)
		r.want(r.query("START_REPLICATION 0/1000000 TIMELINE 2"), "W")
		r.wantWords("w 0/1000000-0/1000200 of 0/1000200")
		want := []string{
			`started 1 dr 1 0/1000000 ""`, "status 1 0/1000100 0/1000100 0/0", "ended 1 <nil>", `started 1 dr 2 0/1000000 ""`,
		}
		if diff := cmp.Diff(want, s.heard.take()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestStreamEnds(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cause func(*server, *memLog, *receiver)
		want  string
		ended string
	}{
		{
			"shutdown",
			func(s *server, _ *memLog, _ *receiver) { s.stop() },
			"C COPY 0 | EOF", "ended 1 <nil>",
		},
		{
			"goodbye",
			func(_ *server, _ *memLog, r *receiver) { r.fe.Send(&pgproto3.Terminate{}); r.flush() },
			"EOF", "ended 1 <nil>",
		},
		{
			"log trimmed",
			func(_ *server, l *memLog, _ *receiver) {
				l.change(func() { l.broken = fmt.Errorf("read: %w", tidegate.ErrNotFound) })
			},
			"FATAL 58P01 requested WAL segment 000000010000000000000001 has already been removed", "ended 1 read: not found",
		},
		{
			"log gone",
			func(_ *server, l *memLog, _ *receiver) {
				l.change(func() { l.broken = &tidegate.Error{Op: "dial", Class: tidegate.Transient, Hint: "wait", Err: io.EOF} })
			},
			"FATAL 57P03 dial: EOF HINT wait", "ended 1 dial: EOF",
		},
		{
			"unknown message",
			func(_ *server, _ *memLog, r *receiver) { r.say([]byte("x")) },
			"FATAL 08P01 protocol violation by the receiver: unexpected message type 'x'",
			"ended 1 protocol violation by the receiver: unexpected message type 'x'",
		},
		{
			"empty message",
			func(_ *server, _ *memLog, r *receiver) { r.say(nil) },
			"FATAL 08P01 protocol violation by the receiver: empty message", "ended 1 protocol violation by the receiver: empty message",
		},
		{
			"query in the copy",
			func(_ *server, _ *memLog, r *receiver) {
				r.fe.Send(&pgproto3.Query{String: "IDENTIFY_SYSTEM"})
				r.flush()
			},
			"FATAL 08P01 protocol violation by the receiver: unexpected standby message *pgproto3.Query",
			"ended 1 protocol violation by the receiver: unexpected standby message *pgproto3.Query",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := newMemLog(0x1000000, 0x1000100)
				s := newServer(t, log)
				r := s.start(t)
				r.want(r.query("START_REPLICATION 0/1000000 TIMELINE 1"), "W")
				r.wantWords("w 0/1000000-0/1000100 of 0/1000100")
				tc.cause(s, log, r)
				r.want(r.answer(), tc.want)
				s.served.Wait()
				if got := s.heard.take(); got[len(got)-1] != tc.ended {
					t.Errorf("got %q, want %q", got, tc.ended)
				}
				if log.opened() != 0 || len(s.Streams()) != 0 {
					t.Error("reader or stream left")
				}
			})
		})
	}
}

// A shutdown leaves a receiver at a record's end.
func TestShutdownInsideRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, newMemLog(0x1000000, 0x1000000+1<<20))
		r := s.start(t)
		r.want(r.query("START_REPLICATION 0/1000000 TIMELINE 1"), "W")
		r.wantWords("w 0/1000000-0/1020000 of 0/1100000")
		s.stop()
		got := r.answer()
		if !strings.HasSuffix(got, " | w 0/10E0000-0/1100000 of 0/1100000 | C COPY 0 | EOF") {
			t.Error(got)
		}
	})
}

// A receiver that is frozen holds up nobody but itself, and not the shutdown.
func TestFrozenReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog(0x1000000, 0x1000000+64<<20)
		s := newServer(t, log)
		frozen, lively := s.start(t), s.start(t)
		for _, r := range []*receiver{frozen, lively} {
			r.want(r.query("START_REPLICATION 0/1000000 TIMELINE 1"), "W")
		}
		for range 64 << 20 / messageBytes {
			lively.word()
		}
		s.stop()
		lively.want(lively.answer(), "C COPY 0 | EOF")
		at := time.Now()
		s.served.Wait()
		if took := time.Since(at); took > 500*time.Millisecond {
			t.Errorf("shutdown took %s", took)
		}
	})
}

// badReader gives ranges that break the contract.
type badReader struct {
	Log
	ranges []struct {
		start wal.LSN
		bytes int
	}
	last error
}

func (b *badReader) Open(context.Context, wal.Timeline, wal.LSN) (Reader, error) { return b, nil }
func (b *badReader) Close() error                                                { return nil }

func (b *badReader) Next(ctx context.Context) (wal.LSN, []byte, error) {
	if len(b.ranges) == 0 {
		if b.last != nil {
			return 0, nil, b.last
		}
		<-ctx.Done()
		return 0, nil, ctx.Err()
	}
	r := b.ranges[0]
	b.ranges = b.ranges[1:]
	return r.start, bytes.Repeat([]byte{1}, r.bytes), nil
}

func TestBadReaderIsFatal(t *testing.T) {
	type span = struct {
		start wal.LSN
		bytes int
	}
	const at = 0x1000000
	for name, tc := range map[string]struct {
		ranges []span
		last   error
		want   string
	}{
		"gap":            {[]span{{at + 8, 8}}, nil, "range from 0/1000008 to 0/1000010 where 0/1000000 was next"},
		"nothing":        {[]span{{at, 0}}, nil, "range from 0/1000000 to 0/1000000 where 0/1000000 was next"},
		"all before":     {[]span{{at - 16, 16}}, nil, "range from 0/FFFFF0 to 0/1000000 where 0/1000000 was next"},
		"again":          {[]span{{at, 16}, {at + 8, 16}}, nil, "range from 0/1000008 to 0/1000018 where 0/1000010 was next"},
		"in a record":    {[]span{{at, 12}}, nil, "range ends at 0/100000C, where no record does"},
		"ended too late": {[]span{{at, 16}}, &TimelineEnd{At: at + 8, Next: 2}, "timeline 1 ended at 0/1000008, but was sent up to 0/1000010"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, &badReader{Log: newMemLog(at, at+0x100), ranges: tc.ranges, last: tc.last})
				r := s.start(t)
				r.want(r.query("START_REPLICATION 0/1000000"), "W")
				for {
					got := r.word()
					if strings.HasPrefix(got, "w ") {
						continue
					}
					r.want(got, "FATAL XX001 log does not continue: "+tc.want)
					break
				}
			})
		})
	}
}
