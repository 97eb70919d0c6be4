package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/server"
)

// Node is a ledger node.
type Node struct {
	cfg     Config
	log     *slog.Logger
	started time.Time

	shelf   *book.Shelf
	http    *http.Client
	listens chan struct{}
	addr    atomic.Pointer[string] // where it listens
	term    atomic.Pointer[term]   // the present one
	begun   chan struct{}          // closed when the states may be asked for
}

// New returns a node. It does no I/O.
func New(log *slog.Logger, cfg Config) (*Node, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "configure ledger node", Class: tidegate.Misuse, Err: err}
	}
	return &Node{
		cfg: cfg, log: log, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		listens: make(chan struct{}), begun: make(chan struct{}),
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
		Run: n.cfg.RunDir, Standby: n.cfg.Follow || n.cfg.Return, Endpoint: n.endpoint(), Receipts: n.cfg.Receipts,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.shelf.Close()) }()
	leads := true
	switch {
	case n.cfg.Follow:
		// What was promoted once leads, until it is told otherwise.
		leads, err = cluster.Exists(n.cfg.Dir)
	case n.cfg.Return:
		// And what has left its cluster follows, until it is promoted.
		leads, err = cluster.Left(n.cfg.Dir)
		leads = !leads
	}
	if err != nil {
		return err
	}
	if err := n.beginTerm(leads); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.serve(ctx) })
	g.Go(func() error { return n.terms(ctx) })
	// The daemons are told of the journals only once the states that belong to
	// them are there: replayed, or restored by raft.
	g.Go(func() error {
		select {
		case <-n.begun:
			return n.shelf.Run(ctx, n)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// self is this node among its peers.
func (n *Node) self() cluster.Peer {
	for _, p := range n.cfg.Peers {
		if p.Node == n.cfg.Name {
			return p
		}
	}
	return cluster.Peer{}
}

// endpoint is what the world is told: the route sends clients there.
func (n *Node) endpoint() string {
	if p := n.self(); p.HTTP != "" {
		return p.HTTP[len("http://"):]
	}
	return n.cfg.HTTP
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
