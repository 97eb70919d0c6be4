package shadow

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
)

// clearance stands at the sandbox's end of an agent's socket. A promoted service answers
// its clients only as far as an agent lets it; a real agent would need a gate, an epoch
// and standby nodes, none of which a sandbox may reach. This one holds the sandbox's
// epoch and lets go what the sandbox's own journal has on disk: so the time that the gate
// itself takes after a failover is no part of what an L1 drill measures.
type clearance struct {
	run     string
	service tidegate.ServiceName
	streams []tidegate.StreamName
	epoch   tidegate.Epoch
}

// listen listens for the streams' libraries; the caller runs what it returns.
func (c *clearance) listen() (lns []*local.Listener, err error) {
	for _, name := range c.streams {
		ln, err := local.Listen(local.SocketPath(c.run, local.DaemonAgent, c.service, name))
		if err != nil {
			for _, ln := range lns {
				_ = ln.Close() // nobody connected
			}
			return nil, err
		}
		lns = append(lns, ln)
	}
	return lns, nil
}

// serve serves the libraries until ctx ends.
func (c *clearance) serve(ctx context.Context, lns []*local.Listener) error {
	var g errgroup.Group
	for _, ln := range lns {
		g.Go(func() error {
			stop := context.AfterFunc(ctx, func() { _ = ln.Close() }) // Accept reports it
			defer stop()
			var talks sync.WaitGroup
			defer talks.Wait()
			for {
				conn, err := ln.Accept()
				if ctx.Err() != nil {
					return nil
				}
				if err != nil {
					return err
				}
				talks.Go(func() { c.talk(ctx, conn) })
			}
		})
	}
	return g.Wait()
}

// talk serves one session. A library that goes away connects anew.
func (c *clearance) talk(ctx context.Context, conn *local.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	defer func() { _ = conn.Close() }() // the library sees it
	if _, err := conn.Serve(ctx, local.Welcome{Daemon: local.DaemonAgent, Node: "drill"}, nil); err != nil {
		return
	}
	active := false
	for {
		m, err := conn.Recv()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *local.Activated:
			active = true
			err = conn.Send(&local.Role{State: local.StateActive, Epoch: c.epoch})
		case *local.Deactivated:
			active = false
		case *local.LibraryProgress:
			if active {
				err = conn.Send(&local.DaemonProgress{
					D: m.L.Position, DKnown: true, Epoch: c.epoch, Mode: tidegate.ModeSync, Recorded: true, Record: machine.RecordArmed,
				})
			}
		}
		if err != nil {
			return
		}
	}
}
