package daemontest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
)

// patient is how long Until waits: a library that went away says nothing more.
const patient = time.Minute

// Script is a scripted daemon on one stream's socket.
type Script struct {
	t  *testing.T
	ln *local.Listener

	mu       sync.Mutex
	conns    map[*local.Conn]bool
	epoch    tidegate.Epoch
	closed   bool // the gate grants nothing
	mute     bool // an agent that holds nothing and says nothing; a standby daemon never does
	terms    func(*local.DaemonProgress)
	active   map[*local.Conn]bool
	progress local.LibraryProgress
	heard    chan struct{} // closed and replaced at every message of the library
	greet    []local.Message
}

// Start starts one for a stream of the service "ledger"; it ends with the test.
// It sends greet to every library that connects.
func Start(t *testing.T, run string, kind local.Daemon, stream string, greet ...local.Message) *Script {
	t.Helper()
	ln, err := local.Listen(local.SocketPath(run, kind, "ledger", tidegate.StreamName(stream)))
	if err != nil {
		t.Fatal(err)
	}
	s := &Script{
		t: t, ln: ln, mute: kind == local.DaemonStandby, conns: map[*local.Conn]bool{}, active: map[*local.Conn]bool{}, epoch: 1,
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

func (s *Script) talk(kind local.Daemon, c *local.Conn) {
	defer func() { _ = c.Close() }() // the library sees it
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		delete(s.active, c)
		s.tell()
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

func (s *Script) send(c *local.Conn, m local.Message) {
	if err := c.Send(m); err != nil {
		s.t.Logf("send %T: %v", m, err)
	}
}

func (s *Script) hear(c *local.Conn, m local.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m := m.(type) {
	case *local.Activated:
		if s.mute {
			break
		}
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
	s.tell()
}

// tell wakes who waits for the library.
func (s *Script) tell() {
	close(s.heard)
	s.heard = make(chan struct{})
}

// grant says that everything the library has is durable elsewhere, as a sync
// stream's agent does once it is.
func (s *Script) grant(c *local.Conn) {
	if s.closed {
		return
	}
	m := &local.DaemonProgress{
		D: s.progress.L.Position, DKnown: true, Epoch: s.epoch, Mode: tidegate.ModeSync, Recorded: true, Record: machine.RecordArmed,
	}
	if s.terms != nil {
		s.terms(m)
	}
	s.send(c, m)
}

// Terms changes what is granted from now on; f is called with each grant.
func (s *Script) Terms(f func(*local.DaemonProgress)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.terms = f
	for c := range s.active {
		s.grant(c)
	}
}

// Shut closes or opens the gate.
func (s *Script) Shut(closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = closed
	for c := range s.active {
		s.grant(c)
	}
}

// Tell sends m to the library, now and whenever it connects again.
func (s *Script) Tell(m local.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greet = append(s.greet, m)
	for c := range s.conns {
		s.send(c, m)
	}
}

// Until waits for the library to report something.
func (s *Script) Until(ok func(local.LibraryProgress) bool) {
	s.t.Helper()
	late := time.After(patient)
	for {
		s.mu.Lock()
		p, heard := s.progress, s.heard
		s.mu.Unlock()
		if ok(p) {
			return
		}
		select {
		case <-heard:
		case <-late:
			s.t.Fatalf("the library reports %+v after %s", p, patient)
		case <-s.t.Context().Done():
			s.t.Fatal("the test ended while waiting for the library")
		}
	}
}

// Gone waits until no library is connected, and forgets what it reported: after
// the node was stopped, nothing that it said before counts any more.
func (s *Script) Gone() {
	s.t.Helper()
	for {
		s.mu.Lock()
		left, heard := len(s.conns), s.heard
		if left == 0 {
			s.progress = local.LibraryProgress{}
		}
		s.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-heard:
		case <-s.t.Context().Done():
			s.t.Fatal("the test ended while waiting for the library to leave")
		}
	}
}

// Hold sets the epoch that the agent holds from the next activation on.
func (s *Script) Hold(epoch tidegate.Epoch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = epoch
}

// Mute makes an agent that does not hold the epoch when a service activates.
func (s *Script) Mute() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = true
}

// Forget empties what is sent to a library that connects.
func (s *Script) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greet = nil
}

// RunDir returns a run folder for daemons that goes with the test.
func RunDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tg") //nolint:usetesting // a socket's path has at most 108 bytes, less than t.TempDir's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Address returns a loopback address that nobody listens on. Its port is below
// those that the kernel gives to outgoing connections, so that it stays free
// until the test gets to it.
func Address(t *testing.T) string {
	t.Helper()
	const low, high = 20000, 32000
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", low+rand.IntN(high-low))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatal("no free port")
	return ""
}
