package replication

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// scripted is a stream from 0/100 on timeline 1 and the server's end of it.
func scripted(t *testing.T, silence time.Duration) (*Stream, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return &Stream{
		target: "script", silence: silence, timeline: 1, next: 0x100,
		conn: ours, front: pgproto3.NewFrontend(ours, ours),
	}, theirs
}

func logMessage(at wal.LSN, data string) pgproto3.BackendMessage {
	b := make([]byte, dataHeaderBytes, dataHeaderBytes+len(data))
	b[0] = 'w'
	for i := range 8 {
		b[1+i] = byte(at >> (56 - 8*i))
	}
	return &pgproto3.CopyData{Data: append(b, data...)}
}

func keepalive(reply byte) pgproto3.BackendMessage {
	return &pgproto3.CopyData{Data: append(append([]byte("k"), make([]byte, 16)...), reply)}
}

// play sends messages and gives what the stream sent, one at a time.
func play(t *testing.T, server net.Conn, messages ...pgproto3.BackendMessage) <-chan pgproto3.FrontendMessage {
	t.Helper()
	sent := make(chan pgproto3.FrontendMessage, 16)
	back := pgproto3.NewBackend(server, server)
	go func() { // owned by the test; ends with the pipe
		defer close(sent)
		for {
			m, err := back.Receive()
			if err != nil {
				return
			}
			if d, ok := m.(*pgproto3.CopyData); ok {
				m = &pgproto3.CopyData{Data: append([]byte(nil), d.Data...)}
			}
			sent <- m
		}
	}()
	out := pgproto3.NewBackend(server, server)
	go func() { // owned by the test; ends with the pipe
		for _, m := range messages {
			out.Send(m)
			if out.Flush() != nil {
				return
			}
		}
	}()
	return sent
}

func row(values ...string) *pgproto3.DataRow {
	r := &pgproto3.DataRow{}
	for _, v := range values {
		r.Values = append(r.Values, []byte(v))
	}
	return r
}

// TestEndings: every way in which a stream ends, and what is said of it.
func TestEndings(t *testing.T) {
	end := new(*TimelineEnd)
	pg := new(*pgconn.PgError)
	ready := &pgproto3.ReadyForQuery{TxStatus: 'I'}
	for name, c := range map[string]struct {
		play  []pgproto3.BackendMessage
		class tidegate.Class
		is    error
		as    any
	}{
		"gap":              {[]pgproto3.BackendMessage{logMessage(0x108, "x")}, tidegate.Corrupt, tidegate.ErrGap, nil},
		"repeated log":     {[]pgproto3.BackendMessage{logMessage(0x100, "12345678"), logMessage(0x100, "12345678")}, tidegate.Corrupt, tidegate.ErrGap, nil},
		"not a message":    {[]pgproto3.BackendMessage{&pgproto3.CopyData{Data: []byte("z")}}, tidegate.Permanent, nil, nil},
		"not of a stream":  {[]pgproto3.BackendMessage{&pgproto3.BindComplete{}}, tidegate.Permanent, nil, nil},
		"shutdown":         {[]pgproto3.BackendMessage{&pgproto3.CommandComplete{CommandTag: []byte("COPY 0")}}, tidegate.Transient, ErrNotReady, nil},
		"admin":            {[]pgproto3.BackendMessage{&pgproto3.ErrorResponse{Code: "57P01"}}, tidegate.Transient, ErrNotReady, pg},
		"removed":          {[]pgproto3.BackendMessage{&pgproto3.ErrorResponse{Code: "58P01", Routine: "WalSndSegmentOpen"}}, tidegate.Permanent, ErrSegmentRemoved, pg},
		"timeline":         {[]pgproto3.BackendMessage{logMessage(0x100, "12345678"), &pgproto3.CopyDone{}, row("2", "0/108"), ready}, tidegate.Permanent, nil, end},
		"timeline too far": {[]pgproto3.BackendMessage{&pgproto3.CopyDone{}, row("2", "0/108"), ready}, tidegate.Corrupt, tidegate.ErrGap, nil},
		"short row":        {[]pgproto3.BackendMessage{&pgproto3.CopyDone{}, row("2"), ready}, tidegate.Permanent, nil, nil},
		"no row":           {[]pgproto3.BackendMessage{&pgproto3.CopyDone{}, ready}, tidegate.Permanent, nil, nil},
		"error at the end": {[]pgproto3.BackendMessage{&pgproto3.CopyDone{}, &pgproto3.ErrorResponse{Code: "57P01"}}, tidegate.Transient, ErrNotReady, pg},
	} {
		t.Run(name, func(t *testing.T) {
			s, server := scripted(t, time.Minute)
			sent := play(t, server, c.play...)
			var err error
			for err == nil {
				_, err = s.Receive()
			}
			if tidegate.ClassOf(err) != c.class || c.is != nil && !errors.Is(err, c.is) || c.as != nil && !errors.As(err, c.as) {
				t.Errorf("%v (%s)", err, tidegate.ClassOf(err))
			}
			if _, again := s.Receive(); !errors.Is(again, err) {
				t.Errorf("then %v", again)
			}
			if s.Status(Status{}) == nil {
				t.Error("a status was sent after the end")
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			for range sent { // until the pipe is closed
			}
		})
	}
}

// TestReplies: a keepalive that asks is answered with what was last said, and a
// server that is silent is asked once.
func TestReplies(t *testing.T) {
	s, server := scripted(t, 200*time.Millisecond)
	sent := play(t, server, keepalive(0), keepalive(1))
	if err := s.Status(Status{Write: 3, Flush: 2, Apply: 1}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Receive(); err != nil || m.Reply {
		t.Fatal(m, err)
	}
	if m, err := s.Receive(); err != nil || !m.Reply {
		t.Fatal(m, err)
	}
	if _, err := s.Receive(); !errors.Is(err, ErrSilent) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	var asks []byte
	for m := range sent {
		d, ok := m.(*pgproto3.CopyData)
		if !ok {
			continue
		}
		if d.Data[0] != 'r' || d.Data[8] != 3 || d.Data[16] != 2 || d.Data[24] != 1 {
			t.Errorf("status %x", d.Data)
		}
		asks = append(asks, d.Data[statusBytes-1])
	}
	if string(asks) != "\x00\x00\x01" {
		t.Errorf("the server was asked: %v", asks)
	}
}

// TestCloseBesideABlockedStatus: nobody reads what we send.
func TestCloseBesideABlockedStatus(t *testing.T) {
	s, server := scripted(t, time.Minute)
	blocked, received := make(chan error, 1), make(chan error, 1)
	go func() { blocked <- s.Status(Status{}) }() // owned by the test; ends when the stream is closed
	go func() {                                   // owned by the test; ends when the stream is closed
		_, err := s.Receive()
		received <- err
	}()
	if _, err := io.ReadFull(server, make([]byte, 1)); err != nil { // the status is on its way, and stays there
		t.Fatal(err)
	}
	begun := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("Close took %s", took)
	}
	if err := <-blocked; err == nil {
		t.Error("a status that nobody read was sent")
	}
	if err := <-received; !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("receive: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
}
