package walsender

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/internal/wire"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// acceptPause is the wait after an accept that failed for want of something
// that comes back, such as file descriptors.
const acceptPause = 100 * time.Millisecond

// StreamState is what a server knows of a stream that is going on.
type StreamState struct {
	Stream
	Since  time.Time // when it began, by our wall clock
	Sent   wal.LSN   // exclusive end of what was handed to the kernel
	Status Status    // the last one; zero before the first
}

// Server serves a [Log] to receivers on one Unix socket.
type Server struct {
	cfg    Config
	log    *slog.Logger
	clk    clock.Clock
	fsys   vfs.FS
	source Log
	events Events
	ready  chan struct{}

	mu       sync.Mutex
	sessions uint64 // numbers given so far
	open     int    // connections now
	streams  map[uint64]*stream
	slots    slots
	refused  string // the last refusal that was logged; receivers ask again for ever
}

// New returns a server that has done nothing yet. fsys holds the socket's
// directory: the system's, except that a test may want to see what is removed.
func New(source Log, fsys vfs.FS, clk clock.Clock, log *slog.Logger, cfg Config, events Events) (*Server, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "make walsender", Class: tidegate.Misuse, Err: err}
	}
	return &Server{
		cfg: cfg, log: log, clk: clk, fsys: fsys, source: source, events: events,
		ready: make(chan struct{}), streams: map[uint64]*stream{}, slots: slots{},
	}, nil
}

// Run listens and serves until ctx ends, and returns nil then. Receivers are
// told that the server shuts down, as PostgreSQL tells them. It may be called once.
func (s *Server) Run(ctx context.Context) (err error) {
	l, unlock, err := s.listen()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept reports it
	defer func() {
		if stop() { // ctx has not closed it
			err = errors.Join(err, l.Close())
		}
	}()
	close(s.ready)
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close() // came too late to be told anything
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept receivers: %w", err)
		case err != nil:
			s.log.Warn("receiver not accepted", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		wire.Widen(conn, wire.WideBytes) // a receiver that finds nothing left makes what it has durable first
		sessions.Go(func() { s.serve(ctx, conn) })
	}
}

// listen takes the socket's place: the lock first, so that a socket file found
// there is a dead server's.
func (s *Server) listen() (l net.Listener, unlock func() error, err error) {
	path := s.cfg.Socket()
	if err := guarded(s.cfg.Directory); err != nil {
		return nil, nil, err
	}
	lock, err := s.fsys.Lock(path + ".tidegate.lock")
	if errors.Is(err, tidegate.ErrConflict) {
		return nil, nil, &tidegate.Error{
			Op: "listen", Subject: path, Class: tidegate.Misuse, Err: err,
			Hint: "another process of Tidegate serves receivers there; stop it first",
		}
	} else if err != nil {
		return nil, nil, fmt.Errorf("listen %s: %w", path, err)
	}
	if l, err = s.bind(path); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("listen %s: %w", path, err), lock.Close())
	}
	return l, lock.Close, nil
}

func (s *Server) bind(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("exists and is not a socket: %w", tidegate.ErrConflict)
	default:
		if err := s.fsys.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o777); err != nil { //nolint:gosec // the directory is the guard, as guarded has checked
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// guarded refuses a directory that anybody may enter: the log holds every row.
func guarded(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("not a directory")
	}
	if err == nil && info.Mode().Perm()&0o007 != 0 {
		err = fmt.Errorf("mode %04o lets everybody in", info.Mode().Perm())
	}
	if err != nil {
		return &tidegate.Error{
			Op: "use socket directory", Subject: dir, Class: tidegate.Misuse, Err: err,
			Hint: "make the directory, owned by us, with the group of PostgreSQL's user and mode 0710",
		}
	}
	return nil
}

// Ready is closed when receivers can connect.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Streams returns the state of every stream that is going on, by session.
func (s *Server) Streams() []StreamState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]StreamState, 0, len(s.streams))
	for _, t := range s.streams {
		states = append(states, t.state())
	}
	slices.SortFunc(states, func(a, b StreamState) int { return cmp.Compare(a.Session, b.Session) })
	return states
}

// RequestStatus asks every receiver that is streaming for its status at once.
// The answers come as events. A walreceiver otherwise speaks each
// wal_receiver_status_interval, and when it has written or caught up.
func (s *Server) RequestStatus() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.streams {
		poke(t.asked)
	}
}

// poke leaves a mark in a channel of one place.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
