package node

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// script is a scripted Tidegate daemon on one stream's socket: the tests'
// stand-in for an agent or a standby node.
type script struct {
	t  *testing.T
	ln *local.Listener

	mu       sync.Mutex
	conns    map[*local.Conn]bool
	epoch    tidegate.Epoch
	closed   bool // the gate grants nothing
	active   map[*local.Conn]bool
	progress local.LibraryProgress
	heard    chan struct{} // closed and replaced at every message of the library
	greet    []local.Message
}

// daemon starts one; it ends with the test, or with the returned stop.
func daemon(t *testing.T, run string, kind local.Daemon, stream string, greet ...local.Message) *script {
	t.Helper()
	ln, err := local.Listen(local.SocketPath(run, kind, "ledger", tidegate.StreamName(stream)))
	if err != nil {
		t.Fatal(err)
	}
	s := &script{
		t: t, ln: ln, conns: map[*local.Conn]bool{}, active: map[*local.Conn]bool{}, epoch: 1,
		heard: make(chan struct{}), greet: greet,
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.talk(kind, c) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		s.mu.Lock()
		for c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *script) talk(kind local.Daemon, c *local.Conn) {
	defer c.Close()
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		delete(s.active, c)
		s.mu.Unlock()
	}()
	if _, err := c.Serve(context.Background(), local.Welcome{Daemon: kind, Node: "test"}, nil); err != nil {
		return
	}
	s.mu.Lock()
	for _, m := range s.greet {
		s.send(c, m)
	}
	s.mu.Unlock()
	for {
		m, err := c.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.t.Logf("library went away: %v", err)
			}
			return
		}
		s.hear(c, m)
	}
}

func (s *script) send(c *local.Conn, m local.Message) {
	if err := c.Send(m); err != nil {
		s.t.Logf("send %T: %v", m, err)
	}
}

func (s *script) hear(c *local.Conn, m local.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m := m.(type) {
	case *local.Activated:
		s.active[c] = true
		s.send(c, &local.Role{State: local.StateActive, Epoch: s.epoch})
	case *local.Deactivated:
		delete(s.active, c)
	case *local.LibraryProgress:
		s.progress = *m
		if s.active[c] {
			s.grant(c)
		}
	}
	close(s.heard)
	s.heard = make(chan struct{})
}

// grant says that everything the library has is durable elsewhere, as a sync
// stream's agent does once it is.
func (s *script) grant(c *local.Conn) {
	if s.closed {
		return
	}
	s.send(c, &local.DaemonProgress{D: s.progress.L.Position, DKnown: true, Epoch: s.epoch, Mode: tidegate.ModeSync, Recorded: true})
}

// shut closes or opens the gate.
func (s *script) shut(closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = closed
	for c := range s.active {
		s.grant(c)
	}
}

// tell sends m to the library, now and whenever it connects again.
func (s *script) tell(m local.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greet = append(s.greet, m)
	for c := range s.conns {
		s.send(c, m)
	}
}

// until waits for the library to report something.
func (s *script) until(ok func(local.LibraryProgress) bool) {
	s.t.Helper()
	for {
		s.mu.Lock()
		p, heard := s.progress, s.heard
		s.mu.Unlock()
		if ok(p) {
			return
		}
		select {
		case <-heard:
		case <-s.t.Context().Done():
			s.t.Fatal("the test ended while waiting for the library")
		}
	}
}
