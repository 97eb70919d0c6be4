package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/examples/ledger/server"
)

// Node is a ledger node.
type Node struct {
	cfg     Config
	log     *slog.Logger
	started time.Time

	shelf    *book.Shelf
	cluster  *cluster.Cluster
	http     *http.Client
	listens  chan struct{}
	addr     atomic.Pointer[string] // where it listens
	promoted atomic.Bool            // a standby that was made primary, now or before it was started again

	mu      sync.Mutex
	ready   map[ledger.Currency]bool // books at the failover's head
	crossed chan struct{}            // closed when all are
}

// New returns a node. It does no I/O.
func New(log *slog.Logger, cfg Config) (*Node, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "configure ledger node", Class: tidegate.Misuse, Err: err}
	}
	return &Node{
		cfg: cfg, log: log, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		listens: make(chan struct{}), ready: map[ledger.Currency]bool{}, crossed: make(chan struct{}),
	}, nil
}

// Listens is closed when the node answers HTTP; [Node.Addr] is known then.
func (n *Node) Listens() <-chan struct{} { return n.listens }

// Addr returns the host:port the node listens on, "" before it does.
func (n *Node) Addr() string {
	if a := n.addr.Load(); a != nil {
		return *a
	}
	return ""
}

// Run serves until ctx ends, or until the node can no longer be a replica.
func (n *Node) Run(ctx context.Context) (err error) {
	n.started = time.Now()
	defer n.http.CloseIdleConnections()
	n.shelf, err = book.Open(n.log, book.Config{
		Dir: filepath.Join(n.cfg.Dir, "journal"), Service: n.cfg.Service, History: n.cfg.History,
		Run: n.cfg.RunDir, Standby: n.cfg.Follow, Endpoint: n.endpoint(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.shelf.Close()) }()
	if n.cluster, err = cluster.New(n.log, n.shelf, n.http, n.cfg.Cluster); err != nil {
		return err
	}
	if n.cfg.Follow {
		was, err := cluster.Exists(n.cfg.Dir)
		if err != nil {
			return err
		}
		n.promoted.Store(was)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.serve(ctx) })
	if n.follows() {
		g.Go(func() error { return n.follow(ctx) })
	} else {
		g.Go(func() error { return n.lead(ctx) })
	}
	return g.Wait()
}

// endpoint is what the world is told: the route sends clients there.
func (n *Node) endpoint() string {
	for _, p := range n.cfg.Peers {
		if p.Node == n.cfg.Name {
			return p.HTTP[len("http://"):]
		}
	}
	return n.cfg.HTTP
}

// lead takes part in a cluster. The daemons are told of the journals only once
// raft has restored the states that belong to them.
func (n *Node) lead(ctx context.Context) error {
	for _, b := range n.shelf.Books() {
		b.TakeOver()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.cluster.Run(ctx) })
	g.Go(func() error {
		select {
		case <-n.cluster.Restored():
			return n.shelf.Run(ctx, n)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// follow keeps the states warm until both books were promoted, and serves from
// then on.
func (n *Node) follow(ctx context.Context) error {
	began := time.Now()
	if err := n.shelf.Replay(); err != nil {
		return err
	}
	for _, b := range n.shelf.Books() {
		n.log.Info("replayed", "stream", b.Currency().String(), "position", b.Position(), "took", time.Since(began))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.shelf.Run(ctx, n) })
	g.Go(func() error {
		select {
		case <-n.crossed:
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		if err := cluster.Seed(n.log, n.cfg.Dir, n.shelf, n.cfg.Peers[0]); err != nil {
			return err
		}
		n.promoted.Store(true)
		n.log.Info("promoted: cluster of one seeded", "node", n.cfg.Name, "took", time.Since(began))
		return n.cluster.Run(ctx)
	})
	return g.Wait()
}

// Promote implements [book.Desk].
func (n *Node) Promote(ctx context.Context, b *book.Book, epoch tidegate.Epoch, at tidegate.Position) error {
	if n.follows() {
		// The branch record is the journal's own: the state only steps over it.
		if err := b.SkipTo(b.Journal().End()); err != nil {
			return err
		}
		b.TakeOver()
		n.log.Info("book promoted", "stream", b.Currency().String(), "epoch", epoch, "position", at)
		n.mu.Lock()
		n.ready[b.Currency()] = true
		if len(n.ready) == len(n.shelf.Books()) && !closed(n.crossed) {
			close(n.crossed)
		}
		n.mu.Unlock()
	}
	select {
	case <-n.cluster.Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Fenced implements [book.Desk]. The journal remembers it and Submit asks the book.
func (n *Node) Fenced(b *book.Book, epoch tidegate.Epoch) {
	n.log.Warn("fenced: clients are turned away", "stream", b.Currency().String(), "epoch", epoch)
}

// serve answers HTTP until ctx ends.
func (n *Node) serve(ctx context.Context) error {
	ln, err := n.cfg.Listen(n.cfg.HTTP)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", n.cfg.HTTP, err)
	}
	srv := &http.Server{
		Handler:           server.New(n.log, n, n.http.Transport, server.Config{Node: string(n.cfg.Name)}),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	addr := ln.Addr().String()
	n.addr.Store(&addr)
	close(n.listens)
	n.log.Info("answering", "node", n.cfg.Name, "addr", addr, "follow", n.follows())
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", addr, err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.ShutdownTimeout)
		defer cancel()
		if srv.Shutdown(wait) != nil {
			// Requests that are still waiting are cut: their outcome stays unknown to the client.
			return srv.Close()
		}
		return nil
	})
	return g.Wait()
}
