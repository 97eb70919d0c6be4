package apply

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// divergedDir is where a server's log goes that nobody else has, in the home.
func (c *Connector) divergedDir(e tidegate.Epoch) string {
	return filepath.Join(c.cfg.Server.Home, quarantine.DirName, e.String()+"-diverged")
}

// about is what a bundle's summary says of the stream, whatever the bundle is.
func (c *Connector) about(was saved, cut tidegate.Epoch) quarantine.Summary {
	about := quarantine.Summary{
		Service: c.cfg.Service, Stream: c.cfg.Stream, StreamID: was.Stream, Generation: was.Generation, CutEpoch: cut,
	}
	if was.Epoch != 0 {
		about.WrittenEpochs = []tidegate.Epoch{was.Epoch}
	}
	return about
}

// drain stops the source in order. Its walsender keeps it until the other site has
// its last record, so nothing is lost by it. That it was for a switchover is
// written down first: a restart in between must not begin it anew.
func (c *Connector) drain(ctx context.Context) error {
	if err := c.save(func(s *saved) { s.Drained = true }); err != nil {
		return err
	}
	c.deps.Log.Info("server is stopped for a switchover")
	return c.server.Stop(ctx, server.StopFast)
}

// undrain lets the source go on.
func (c *Connector) undrain(ctx context.Context) error {
	start := c.server.StartAsItWas
	if c.phase() != phaseNone {
		start = func(ctx context.Context) error { return c.server.Start(ctx, server.Serve) }
	}
	if err := start(ctx); err != nil {
		return err
	}
	return c.save(func(s *saved) { s.Drained = false })
}

// leave stops what was the source, at once: the stream is written elsewhere, and
// whatever it would still write is lost. In a switchover it was stopped before.
func (c *Connector) leave(ctx context.Context, why string) error {
	err := c.save(func(s *saved) {
		if s.Phase != phaseLeft {
			s.Phase, s.Why, s.Drained = phaseLeft, why, false
		}
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.verified = false
	c.mu.Unlock()
	ring(c.kick)
	c.deps.Log.Warn("server leaves the stream", "because", why)
	return c.server.Stop(ctx, server.StopImmediate)
}

// rejoin makes a follower of what was the source. What only it has goes to
// quarantine first. A server in the connector's own home that cannot be taken
// back is moved aside, and restored from a base.
func (c *Connector) rejoin(ctx context.Context, role local.Role) error {
	l, err := wal.ParseLineage(role.Lineage)
	if err != nil {
		return fmt.Errorf("rejoin: %w", err)
	}
	c.mu.Lock()
	was := c.saved
	c.mu.Unlock()
	began := c.deps.Clock.Boot()
	out, err := c.server.Rejoin(ctx, server.RejoinPlan{
		Lineage: l, Source: c.cfg.RewindFrom,
		Quarantine: c.divergedDir(role.Epoch), About: c.about(was, role.Epoch),
	})
	if d := out.Diverged; d != nil {
		if err := c.keepTail(d, role.Epoch); err != nil {
			return err
		}
	}
	if errors.Is(err, server.ErrNeedsBase) && !c.cfg.adopts() {
		c.deps.Log.Warn("server cannot be rewound, it is restored", "err", err)
		return c.restore(ctx, role)
	}
	if err != nil {
		return err
	}
	if err := c.rejoined(l, role.Generation); err != nil {
		return err
	}
	c.deps.Log.Info("server follows again", "rewound", out.Rewound, "took", time.Duration(c.deps.Clock.Boot()-began))
	return nil
}

// rejoined says that the data is a follower's.
func (c *Connector) rejoined(l wal.Lineage, g tidegate.Generation) error {
	control, err := c.server.Control()
	if err != nil {
		return err
	}
	own, ok := l.Until(control.Newest())
	if !ok || control.System != l.System {
		return fmt.Errorf("server is of system %d on timeline %s, the log is %s: %w", control.System, control.Newest(), l, tidegate.ErrDiverged)
	}
	c.window.shut(0)
	err = c.save(func(s *saved) {
		s.Phase, s.Generation, s.Base, s.Lineage, s.Release, s.Why = phaseFollowing, g, "", own.Text(), "", ""
		s.Epoch, s.At, s.Drained = 0, 0, false
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.learn()
}

// keepTail writes down what is in quarantine, to be reported.
func (c *Connector) keepTail(d *wal.Summary, epoch tidegate.Epoch) error {
	t := &Tail{
		First: d.From.Position(), Next: d.To.Position(), Commits: d.Commits,
		Path: c.divergedDir(epoch),
	}
	if d.Oldest != nil {
		t.Oldest, t.Newest = *d.Oldest, *d.Newest
	}
	if err := c.save(func(s *saved) { s.Tail = t }); err != nil {
		return err
	}
	ring(c.tailed)
	return nil
}

// account reports the newest tail until it is taken, until ctx ends: once in each
// run, for whoever takes it knows what it has.
func (c *Connector) account(ctx context.Context) error {
	backoff := retry.Policy{First: lookEvery, Max: 10 * lookEvery}.Backoff()
	var done *Tail
	for {
		c.mu.Lock()
		t := c.saved.Tail
		c.mu.Unlock()
		if t != nil && t != done {
			if err := c.deps.Left(*t); err != nil {
				if backoff.Wait(ctx) != nil {
					return nil
				}
				continue
			}
			backoff.Reset()
			done = t
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.tailed:
		}
	}
}

func (c *Connector) phase() phase {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.saved.Phase
}
