package route

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/tidegate/tidegate"
)

// conn is one client's connection and its way to the service.
type conn struct {
	epoch    tidegate.Epoch
	client   *net.TCPConn
	upstream *net.TCPConn
}

// reset ends both ends at once; the peers see a reset, not a clean end, so that
// a half-answered request is not taken for a whole one.
func (c *conn) reset() {
	for _, end := range []*net.TCPConn{c.client, c.upstream} {
		_ = end.SetLinger(0) // best effort: closing is what matters
		_ = end.Close()
	}
}

// serve accepts until the listener is closed, and returns when the last
// connection has ended.
func (s *service) serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, s.limit)
	for {
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accept for %s: %w", s.name, err)
		}
		client, ok := nc.(*net.TCPConn)
		if !ok {
			_ = nc.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			// Refusing at once is kinder than a connection that hangs in a queue.
			s.metrics.rejected.WithLabelValues(string(s.name)).Inc()
			_ = client.SetLinger(0)
			_ = client.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.handle(ctx, client)
		})
	}
}

func (s *service) handle(ctx context.Context, client *net.TCPConn) {
	t := s.current()
	upstream, endpoint, err := s.dial(ctx, t)
	if err != nil {
		s.metrics.failed.WithLabelValues(string(s.name)).Inc()
		s.log.Debug("client turned away", "err", err)
		_ = client.SetLinger(0)
		_ = client.Close()
		return
	}
	c := &conn{epoch: t.Epoch, client: client, upstream: upstream}
	if !s.add(c, endpoint) {
		c.reset() // the route moved on while we dialled
		return
	}
	defer s.remove(c)
	s.metrics.opened.WithLabelValues(string(s.name)).Inc()
	c.copy()
}

// copy moves bytes both ways until both directions have ended. io.Copy between
// two TCP connections is splice(2): the bytes never enter this process.
func (c *conn) copy() {
	var wg sync.WaitGroup
	one := func(to, from *net.TCPConn) {
		_, err := io.Copy(to, from)
		if err != nil {
			c.reset() // one direction broke: the other must not wait for ever
			return
		}
		_ = to.CloseWrite() // the peer said all it had; pass that on
	}
	wg.Go(func() { one(c.upstream, c.client) })
	wg.Go(func() { one(c.client, c.upstream) })
	wg.Wait()
	_ = c.client.Close()
	_ = c.upstream.Close()
}

// add registers a connection unless its epoch has been passed.
func (s *service) add(c *conn, endpoint string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.epoch < s.target.Epoch {
		return false
	}
	s.conns[c] = struct{}{}
	s.endpoint = endpoint
	return true
}

func (s *service) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *service) dial(ctx context.Context, t Target) (*net.TCPConn, string, error) {
	if t.Epoch == 0 {
		return nil, "", fmt.Errorf("route %s is not known yet: %w", s.name, tidegate.ErrNotFound)
	}
	var errs []error
	for _, e := range t.Endpoints {
		nc, err := s.dialer.DialContext(ctx, "tcp", e)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if tc, ok := nc.(*net.TCPConn); ok {
			return tc, e, nil
		}
		_ = nc.Close()
	}
	return nil, "", errors.Join(errs...)
}
