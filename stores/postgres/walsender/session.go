package walsender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Ends of a session that are no failures.
var (
	errTerminated = errors.New("receiver said goodbye")
	errShutdown   = errors.New("terminating connection due to administrator command")
)

// session is one connection. Its methods belong to one goroutine, except where
// a stream has one of its own that reads.
type session struct {
	srv         *Server
	id          uint64
	application string
	conn        net.Conn
	be          *pgproto3.Backend
	log         *slog.Logger
}

// serve owns conn and closes it.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }() // all was written, or nobody reads it
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := s.admit(conn)
	defer s.dismiss(c.id)
	// Whoever blocks on the connection is freed when the server ends; what has
	// still to be said then gets CloseTimeout.
	defer context.AfterFunc(ctx, func() {
		_ = conn.SetWriteDeadline(time.Now().Add(s.cfg.CloseTimeout)) // a closed connection frees them as well
		_ = conn.SetReadDeadline(time.Unix(1, 0))
	})()
	err := c.run(ctx)
	switch {
	case err == nil, errors.Is(err, errTerminated):
		c.log.Debug("receiver left")
	case ctx.Err() != nil:
		c.log.Debug("receiver sent away", "err", err)
	default:
		c.log.Info("receiver lost", "err", err)
	}
}

// admit counts a connection and gives it its number.
func (s *Server) admit(conn net.Conn) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions++
	s.open++
	be := pgproto3.NewBackend(conn, conn)
	be.SetMaxBodyLen(receiverBytesMax)
	return &session{srv: s, id: s.sessions, conn: conn, be: be, log: s.log.With("session", s.sessions)}
}

func (s *Server) dismiss(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	s.slots.release(id)
}

func (c *session) run(ctx context.Context) error {
	if err := c.handshake(ctx); err != nil {
		return err
	}
	for {
		err := c.command(ctx)
		if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return c.fatal(&refusal{code: "57P01", message: errShutdown.Error()}, errShutdown)
		}
		if err != nil {
			return err
		}
	}
}

// handshake does everything up to the first ReadyForQuery.
func (c *session) handshake(ctx context.Context) error {
	late := time.AfterFunc(c.srv.cfg.HandshakeTimeout, func() { _ = c.conn.Close() })
	defer late.Stop()
	m, err := c.startup()
	if err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	c.application = m.Parameters["application_name"]
	c.log = c.log.With("application", c.application)
	if r := c.admissible(m); r != nil {
		return c.fatal(r, r)
	}
	id, err := c.srv.source.Identity(ctx)
	if err != nil {
		return c.fatal(ofLog(err), err)
	}
	c.negotiate(m)
	c.be.Send(&pgproto3.AuthenticationOk{})
	for _, p := range [][2]string{
		{"server_version", id.ServerVersion},
		{"server_encoding", "UTF8"},
		{"client_encoding", "UTF8"},
		{"application_name", c.application},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "GMT"},
		{"integer_datetimes", "on"}, // pg_receivewal refuses a server without
		{"standard_conforming_strings", "on"},
	} {
		c.be.Send(&pgproto3.ParameterStatus{Name: p[0], Value: p[1]})
	}
	// Cancelling is not served, so the key opens nothing.
	c.be.Send(&pgproto3.BackendKeyData{ProcessID: uint32(c.id), SecretKey: make([]byte, 4)})
	return c.idle()
}

// startup reads up to the start-up message and declines encryption on the way.
func (c *session) startup() (*pgproto3.StartupMessage, error) {
	for range 3 { // GSS, TLS, start
		m, err := c.be.ReceiveStartupMessage()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.StartupMessage:
			return m, nil
		case *pgproto3.SSLRequest, *pgproto3.GSSEncRequest:
			if _, err := c.conn.Write([]byte{'N'}); err != nil {
				return nil, err
			}
		default: // a cancellation: there is never anything to cancel
			return nil, errTerminated
		}
	}
	return nil, fmt.Errorf("%w: no start-up message", errReceiver)
}

// negotiate answers a newer protocol than ours, or options of one.
func (c *session) negotiate(m *pgproto3.StartupMessage) {
	var unknown []string
	for name := range m.Parameters {
		if strings.HasPrefix(name, "_pq_.") {
			unknown = append(unknown, name)
		}
	}
	if m.ProtocolVersion != pgproto3.ProtocolVersion30 || len(unknown) > 0 {
		c.be.Send(&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 0, UnrecognizedOptions: unknown})
	}
}

func (c *session) admissible(m *pgproto3.StartupMessage) *refusal {
	switch strings.ToLower(m.Parameters["replication"]) {
	case "true", "on", "yes", "1", "t", "y":
	default:
		r := refuse("0A000", "only physical replication connections are served here")
		r.hint = "This is Tidegate, not a PostgreSQL server; connect to the standby itself."
		return r
	}
	c.srv.mu.Lock()
	defer c.srv.mu.Unlock()
	if c.srv.open > c.srv.cfg.SessionsMax {
		return refuse("53300", "number of requested standby connections exceeds max_wal_senders (currently %d)", c.srv.cfg.SessionsMax)
	}
	return nil
}

// command reads one message outside of a stream and answers it.
func (c *session) command(ctx context.Context) error {
	m, err := c.be.Receive()
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *pgproto3.Query:
		return c.query(ctx, m.String)
	case *pgproto3.Terminate:
		return errTerminated
	case *pgproto3.CopyData, *pgproto3.CopyDone, *pgproto3.CopyFail:
		return nil // of a copy that has ended on our side first
	default:
		r := refuse("08P01", "only simple queries are served here")
		return c.fatal(r, fmt.Errorf("%w: %T", errReceiver, m))
	}
}

func (c *session) query(ctx context.Context, text string) error {
	if len(text) > commandBytesMax {
		return c.refuse(refuse("54000", "command too long"))
	}
	c.log.Debug("command", "text", text)
	cmd, err := parseCommand(text)
	if err != nil {
		return c.refuse(ofParser(err))
	}
	switch cmd.verb {
	case identifySystem:
		return c.identify(ctx)
	case show:
		return c.show(ctx, cmd.name)
	case history:
		return c.history(ctx, cmd.timeline)
	case startStreaming:
		return c.start(ctx, cmd)
	default:
		return c.slot(cmd)
	}
}

func (c *session) identify(ctx context.Context) error {
	id, err := c.srv.source.Identity(ctx)
	if err != nil {
		return c.refuse(ofLog(err))
	}
	c.row(text("systemid", strconv.FormatUint(id.SystemID, 10)), number("timeline", id.Timeline.String()),
		text("xlogpos", id.End.String()), null("dbname"))
	return c.done(identifySystem)
}

func (c *session) show(ctx context.Context, name string) error {
	id, err := c.srv.source.Identity(ctx)
	if err != nil {
		return c.refuse(ofLog(err))
	}
	var value string
	switch strings.ToLower(name) {
	case "wal_segment_size":
		value = segmentSize(id.SegmentSize)
	case "data_directory_mode": // pg_receivewal gives its files the same
		value = "0700"
	case "server_version":
		value = id.ServerVersion
	default:
		return c.refuse(refuse("42704", "unrecognized configuration parameter %q", name))
	}
	c.row(text(strings.ToLower(name), value))
	return c.done(show)
}

// segmentSize writes a size as SHOW does, in the largest unit that divides it.
func segmentSize(s wal.SegmentSize) string {
	if s%(1<<30) == 0 {
		return fmt.Sprintf("%dGB", s>>30)
	}
	return fmt.Sprintf("%dMB", s>>20)
}

func (c *session) history(ctx context.Context, tli wal.Timeline) error {
	b, err := c.srv.source.History(ctx, tli)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return c.refuse(refuse("58P01", "could not open file \"pg_wal/%s\": No such file or directory", tli.HistoryFileName()))
	case err != nil:
		return c.refuse(ofLog(err))
	}
	c.row(text("filename", tli.HistoryFileName()), text("content", string(b)))
	return c.done(history)
}

func (c *session) slot(cmd command) error {
	c.srv.mu.Lock()
	s, known := c.srv.slots[cmd.name]
	var refused *refusal
	switch cmd.verb {
	case createSlot:
		var owner uint64
		if cmd.temporary {
			owner = c.id
		}
		refused = c.srv.slots.create(cmd.name, owner)
	case dropSlot:
		refused = c.srv.slots.drop(cmd.name)
	}
	c.srv.mu.Unlock()
	if refused != nil {
		return c.refuse(refused)
	}
	switch {
	case cmd.verb == createSlot:
		c.row(text("slot_name", cmd.name), text("consistent_point", "0/0"), null("snapshot_name"), null("output_plugin"))
	case cmd.verb == readSlot && known && s.flush != 0:
		c.row(text("slot_type", "physical"), text("restart_lsn", s.flush.String()), number("restart_tli", s.timeline.String()))
	case cmd.verb == readSlot && known:
		c.row(text("slot_type", "physical"), null("restart_lsn"), null("restart_tli"))
	case cmd.verb == readSlot:
		c.row(null("slot_type"), null("restart_lsn"), null("restart_tli"))
	}
	return c.done(cmd.verb)
}
