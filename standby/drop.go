package standby

import (
	"context"
	"fmt"

	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/shipper/drop"
)

// dropEnd is where sessions arrive that cross by the archive.
type dropEnd struct {
	drop     *drop.Drop
	listener *drop.Listener
}

// openDrop makes the end, where the node has an archive to cross by.
func (n *Standby) openDrop(ctx context.Context) error {
	if n.deps.Drop == nil {
		return nil
	}
	b, err := n.deps.Drop(ctx)
	if err != nil {
		return fmt.Errorf("open archive to cross by: %w", err)
	}
	d := drop.New(b, n.cfg.Drop)
	e := &dropEnd{drop: d}
	e.listener = d.Listen(n.cfg.Node, n.mayComeByDrop, n.deps.Log)
	n.drop.Store(e)
	return nil
}

// serveDrop serves those sessions like all others until ctx ends.
func (n *Standby) serveDrop(ctx context.Context) error {
	e := n.drop.Load()
	if e == nil {
		return nil
	}
	defer e.drop.Wait()
	server, err := shipper.NewServer(shipper.ServerConfig{
		TLS: n.deps.ShipServe, Node: n.cfg.Node, Limits: drop.Limits(n.cfg.Limits),
		Clock: n.deps.Clock, Log: n.deps.Log, Refused: n.metrics.refuse,
	}, n)
	if err != nil {
		return err
	}
	return server.Serve(ctx, e.listener)
}

// mayComeByDrop reports whether somebody may have reason to cross by the archive: a
// stream lacks its writer here, or somebody comes that way already, and others of that
// site may follow.
func (n *Standby) mayComeByDrop() bool {
	if n.drop.Load().listener.Connections() > 0 {
		return true
	}
	for _, s := range n.all() {
		if s.fault == nil && s.lacksWriter() {
			return true
		}
	}
	return false
}

// lacksWriter reports whether the stream is written at another site, this node is one of
// its members, and nothing comes.
func (s *stream) lacksWriter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.view.Record
	return r != nil && (r.State == fence.StateActive || r.State == fence.StateSwitching) &&
		r.Config.Index(s.n.cfg.Node) >= 0 && r.Holder.Site != s.n.cfg.Site && len(s.feeds) == 0
}
