package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/release"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
)

// redial bounds the wait for the agent: it is in this process, and while it does
// not listen nothing is released.
var redial = retry.Policy{First: 20 * time.Millisecond, Max: time.Second}

// keepSession keeps a session with the agent going until ctx ends, from when the
// server's lineage is known.
func (c *Capture) keepSession(ctx context.Context) error {
	backoff := redial.Backoff()
	for last := ""; ctx.Err() == nil; {
		began := c.clock.Boot()
		err := c.session(ctx)
		if ctx.Err() != nil {
			break
		}
		if text(err) != last {
			last = text(err)
			c.log.Warn("no session with the agent", "err", err, "hint", tidegate.HintOf(err))
		}
		if time.Duration(c.clock.Boot()-began) > 10*time.Second {
			backoff.Reset()
		}
		if backoff.Wait(ctx) != nil {
			break
		}
	}
	return nil
}

func (c *Capture) session(ctx context.Context) error {
	var p place
	for {
		c.mu.Lock()
		ch := c.changed
		p = c.place
		c.mu.Unlock()
		if p.known {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ch:
		}
	}
	c.mu.Lock()
	head := c.gate.Head.Position
	c.mu.Unlock()
	conn, _, err := local.Dial(ctx, c.cfg.Socket, local.Hello{
		Service: c.cfg.Service, Stream: c.cfg.Stream, Kind: Kind, Lineage: p.lineage.Text(), End: head, Endpoint: c.cfg.Endpoint, Warm: true,
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // unblocks Recv
	defer stop()
	c.mu.Lock()
	if !c.place.known {
		c.mu.Unlock()
		return errors.Join(&tidegate.Error{Op: "introduce the server", Class: tidegate.Transient, Err: errors.New("it is looked at anew")}, conn.Close())
	}
	c.renew = func() { _ = conn.Close() } // the receiver reports it
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.renew = nil
		c.mu.Unlock()
	}()
	// Whatever ends the session: what is granted stays, nothing more is.
	defer c.unhold(true)
	r := &reporter{c: c, conn: conn}
	return conn.Pair(ctx, func(context.Context) error { return c.recv(conn) }, r.run)
}

func (c *Capture) recv(conn *local.Conn) error {
	for {
		m, err := conn.Recv()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *local.Role:
			c.role(m)
		case *local.DaemonProgress:
			c.mu.Lock()
			was := c.gate.Terms.Mode
			granted, link := c.gate.Grant(c.clock.Boot(), m), c.link
			if c.gate.Terms.Mode != was {
				signal(c.ask)
			}
			c.mu.Unlock()
			if granted {
				c.answerNow(link)
			}
		case *local.Feedback:
			c.hear(m)
		default:
			return fmt.Errorf("agent sent %T", m)
		}
	}
}

func (c *Capture) role(m *local.Role) {
	switch m.State {
	case local.StateActive:
		c.mu.Lock()
		if c.gate.Hold(c.clock.Boot(), m.Epoch) {
			c.activate()
		}
		c.mu.Unlock()
	case local.StateFenced:
		c.fence(m.Epoch)
	case local.StateIdle, local.StateFollow:
		c.unhold(false)
		c.mu.Lock()
		c.activate()
		c.mu.Unlock()
	}
}

func (c *Capture) unhold(lost bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate.Unhold(c.clock.Boot(), lost)
	signal(c.report)
}

// fence stops answering for the sake of a newer epoch: who waits on the server
// waits on.
func (c *Capture) fence(epoch tidegate.Epoch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch <= c.outlived || !c.gate.Fence(epoch) {
		return
	}
	c.follows = c.link != nil && !c.link.primary

	c.log.Error("fenced", "epoch", uint64(epoch))
	c.gate.Deactivate(c.clock.Boot())
	signal(c.report)
}

// reporter is the sending half of a session with the agent.
type reporter struct {
	c         *Capture
	conn      *local.Conn
	announcer release.Announcer
	said      []local.Finding // as the agent was told
	found     []local.Finding // as it is to be told
}

func (r *reporter) run(ctx context.Context) error {
	tick := time.NewTicker(r.c.cfg.ProgressEvery)
	defer tick.Stop()
	for {
		if err := r.report(); err != nil {
			return fmt.Errorf("report progress: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.c.report:
		case <-tick.C:
		}
	}
}

func (r *reporter) report() error {
	c := r.c
	c.mu.Lock()
	var m local.LibraryProgress
	activation, active, start := c.gate.Progress(&m)
	m.AKnown = m.AKnown && !c.unheard(c.clock.Boot())
	m.End = c.gate.Head.Position
	m.Drained, m.Slack = c.drained(), c.slack
	if c.leak.why != "" && c.promises() && !c.gate.Terms.Drain {
		m.Grant = 0 // bounds that the server does not wait for are not in force
	}
	lineage := c.place.lineage.Text()
	r.found = c.found(r.found[:0])
	c.mu.Unlock()
	if err := r.tell(); err != nil {
		return err
	}
	if err := r.announcer.Announce(r.conn.Send, lineage, activation, active, start); err != nil {
		return err
	}
	return r.conn.Send(&m)
}

// tell says what is found now, and takes back what no longer is.
func (r *reporter) tell() error {
	if slices.Equal(r.found, r.said) {
		return nil
	}
	for _, f := range r.found {
		if slices.Contains(r.said, f) {
			continue
		}
		if err := r.conn.Send(&f); err != nil {
			return err
		}
	}
	for _, f := range r.said {
		if slices.ContainsFunc(r.found, func(now local.Finding) bool { return now.Name == f.Name }) {
			continue
		}
		if err := r.conn.Send(&local.Finding{Name: f.Name}); err != nil {
			return err
		}
	}
	r.said, r.found = r.found, r.said
	return nil
}
