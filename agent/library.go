package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// library is what a stream knows of the journal library beside it. It is
// guarded by the stream's mutex; conn may be used without it.
type library struct {
	conn      *local.Conn // nil while none is connected
	hello     local.Hello
	active    bool
	began     tidegate.Position // of the newest activation
	activated uint64            // counts activations: each one may be used for one try to become writer
	lineage   tidegate.Lineage
	progress  local.LibraryProgress
	known     bool           // progress has been heard on this connection
	findings  local.Findings // what it says of itself and of its store
}

// head is the newest position that the source has made durable, as far as this
// process has heard: from its progress, or, while it is active, from where it became
// that, which may be told first. Of what was before the log may have gone back.
func (l *library) head() tidegate.Position {
	if l.active {
		return max(l.progress.L.Position, l.began)
	}
	return l.progress.L.Position
}

// serveLibraries accepts libraries on the stream's socket until ctx ends.
func (s *stream) serveLibraries(ctx context.Context) error {
	ln, err := local.Listen(local.SocketPath(s.agent.cfg.RunDir, local.DaemonAgent, s.cfg.Service, s.cfg.Stream))
	if err != nil {
		return err
	}
	var sessions sync.WaitGroup
	defer sessions.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // Accept reports it
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return errors.Join(fmt.Errorf("accept on %s: %w", ln.Addr(), err), ln.Close())
		}
		sessions.Go(func() { s.serveLibrary(ctx, conn) })
	}
}

func (s *stream) serveLibrary(ctx context.Context, conn *local.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	hello, err := conn.Serve(ctx, local.Welcome{Daemon: local.DaemonAgent, Node: s.agent.cfg.Node.Name}, s.checkHello)
	if err != nil {
		s.log.Warn("library refused", "err", err)
		return
	}
	s.libraryUp(conn, hello)
	for {
		m, err := conn.Recv()
		if err != nil {
			s.libraryDown(conn, err)
			return
		}
		if err := s.fromLibrary(conn, m); err != nil {
			s.log.Warn("library broke the protocol", "err", err)
			s.libraryDown(conn, err)
			return
		}
	}
}

func (s *stream) checkHello(h local.Hello) error {
	var what string
	switch {
	case h.Service != s.cfg.Service || h.Stream != s.cfg.Stream:
		what = fmt.Sprintf("library speaks for %s/%s, this socket is of %s/%s", h.Service, h.Stream, s.cfg.Service, s.cfg.Stream)
	case filepath.Clean(h.Dir) != filepath.Clean(s.cfg.JournalDir):
		what = fmt.Sprintf("library writes %s, the agent is configured for %s", h.Dir, s.cfg.JournalDir)
	default:
		return h.CheckKind(s.cfg.Source)
	}
	return &tidegate.Error{
		Op: "accept library", Subject: string(s.cfg.Stream), Class: tidegate.Misuse,
		Hint: "compare the service's configuration with the streams section of the agent's", Err: errors.New(what),
	}
}

// libraryUp makes conn the stream's library. An older connection of the same
// stream is a service that died without the kernel telling us yet, or a second
// one by mistake: the journal's lock decides that, not the agent.
func (s *stream) libraryUp(conn *local.Conn, h local.Hello) {
	s.mu.Lock()
	old := s.lib.conn
	s.lib.conn, s.lib.hello, s.lib.active, s.lib.known, s.lib.lineage, s.lib.began = conn, h, false, false, h.Lineage, 0
	s.lib.findings = local.Findings{}
	s.renewal.gap = nil
	// The journal may be another one now, repaired or copied anew: compare again.
	s.diverged, s.seen = nil, observation{}
	if s.fenced != nil && h.End < s.fenced.end {
		s.fenced.whole = true // it was cut back to where the stream went on
	}
	s.mu.Unlock()
	if old != nil {
		_ = old.Close() // its receiver reports it
	}
	s.log.Info("library connected", "lineage", string(h.Lineage), "end", h.End.String())
	s.tellRole()
	s.tellGrant()
	s.poke()
}

func (s *stream) libraryDown(conn *local.Conn, err error) {
	_ = conn.Close() // it is over in any case
	s.mu.Lock()
	mine := s.lib.conn == conn
	if mine {
		s.lib.conn, s.lib.known, s.lib.findings = nil, false, local.Findings{}
	}
	s.mu.Unlock()
	if !mine {
		return
	}
	if w := s.writer.Load(); w != nil {
		w.libraryLost()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	s.log.Info("library disconnected", "err", err)
	s.service.pokeLease()
	s.poke()
}

// mendLocked takes back that this node's log is not the stream's, when the only
// fault was that it ended: it has grown since, though the service is not active,
// so it follows the stream now.
func (s *stream) mendLocked(head tidegate.Position) {
	if d := s.diverged; d != nil && d.prefix && !s.lib.active && head > d.at {
		s.diverged = nil
		if s.fenced != nil {
			s.fenced.whole = true
		}
	}
}

// fromLibrary takes one message. Progress is the hot path: it takes the
// stream's mutex once and wakes the writer.
func (s *stream) fromLibrary(conn *local.Conn, m local.Message) error {
	s.mu.Lock()
	if s.lib.conn != conn {
		s.mu.Unlock()
		return net.ErrClosed
	}
	switch m := m.(type) {
	case *local.LibraryProgress:
		first := !s.lib.known
		s.lib.progress, s.lib.known = *m, true
		s.mendLocked(m.L.Position)
		close(s.progressed)
		s.progressed = make(chan struct{})
		s.mu.Unlock()
		if w := s.writer.Load(); w != nil {
			w.libraryMoved(m)
		}
		if first {
			s.poke()
		}
		s.headMoved(m.L.Position)
		return nil
	case *local.Activated:
		if !s.lib.active {
			s.lib.activated++
		}
		s.lib.active, s.lib.lineage, s.lib.began = true, m.Lineage, m.L
		if s.whole() {
			s.wakeWaiters() // what does not come any more need not be waited for
		}
		s.mu.Unlock()
		s.headMoved(m.L)
		s.log.Info("service is active here", "lineage", string(m.Lineage), "head", m.L.String())
		s.service.pokeLease()
	case *local.Finding:
		news := s.lib.findings.Note(m)
		s.mu.Unlock()
		s.logFinding(m, news)
		return nil
	case *local.Deactivated:
		s.lib.active = false
		s.mu.Unlock()
		s.log.Info("service is no longer active here")
		s.service.pokeLease()
	default:
		s.mu.Unlock()
		return fmt.Errorf("message %T out of place", m)
	}
	s.tellRole()
	s.poke()
	return nil
}

// logFinding says a library's finding once.
func (s *stream) logFinding(m *local.Finding, news bool) {
	switch {
	case !news:
	case m.Text == "":
		s.log.Info("library takes a finding back", "finding", m.Name)
	case m.Severity == local.SeverityInfo:
		s.log.Info("library found something", "finding", m.Name, "text", m.Text, "hint", m.Hint)
	default:
		s.log.Warn("library found something", "finding", m.Name, "severity", m.Severity.String(), "err", m.Text, "hint", m.Hint)
	}
}

// send gives m to the library, if one is connected. What is lost with a
// connection is said again on the next one.
func (s *stream) send(m local.Message) {
	s.mu.Lock()
	conn := s.lib.conn
	s.mu.Unlock()
	if conn != nil && conn.Send(m) != nil {
		_ = conn.Close() // the receiver reports the end of the connection
	}
}

// tellRole tells the library its part, if that has changed.
func (s *stream) tellRole() {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	now := toldRole{s.lib.conn, s.roleLocked()}
	news := now.conn != nil && now != s.told
	s.told = now
	s.mu.Unlock()
	if news && now.conn.Send(&now.role) != nil {
		_ = now.conn.Close() // the receiver reports the end of the connection
	}
}

// tellGrant tells the library what is durable and within which bounds it may
// release. Always the newest state, and in order: a tightening must not be
// overtaken by what was true before it.
func (s *stream) tellGrant() { s.tell(true) }

// tellNews does the same if anything but D has changed.
func (s *stream) tellNews() { s.tell(false) }

func (s *stream) tell(always bool) {
	s.sending.Lock()
	defer s.sending.Unlock()
	w := s.writer.Load()
	if w == nil {
		return
	}
	p, ok := w.nextGrant(s.agent.clk.Boot())
	if !s.asksBack() {
		p.Applied = 0
	}
	if !ok || !s.number(&p) && !always {
		return
	}
	w.note(p)
	s.send(&p)
}

// number gives a grant its number: a new one if it differs in anything but D and
// what was applied from the one before; news says so. sending is held.
func (s *stream) number(p *local.DaemonProgress) (news bool) {
	bare := *p
	bare.D, bare.Applied, bare.Grant = 0, 0, s.grant.Grant
	if news = bare != s.grant; news {
		bare.Grant++
		s.grant = bare
	}
	p.Grant = s.grant.Grant
	return news
}
