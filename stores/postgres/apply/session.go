package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// redial bounds the wait for the node: it is on this machine.
var redial = retry.Policy{First: 20 * time.Millisecond, Max: time.Second}

// errAgain ends a session because the next one is to begin elsewhere.
var errAgain = &tidegate.Error{Op: "session with the node", Class: tidegate.Transient, Err: errors.New("the server wants another place")}

// sessions keeps a session with the node going until ctx ends.
func (c *Connector) sessions(ctx context.Context) error {
	backoff := redial.Backoff()
	for last := ""; ctx.Err() == nil; {
		began := c.deps.Clock.Boot()
		err := c.talk(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errAgain) {
			continue
		}
		permanent := tidegate.ClassOf(err) != tidegate.Transient
		c.note(func() {
			c.session = nil
			if permanent {
				c.session = err
			}
		})
		if err != nil && err.Error() != last {
			last = err.Error()
			c.deps.Log.Warn("no session with the node", "err", err, "hint", tidegate.HintOf(err))
		}
		if time.Duration(c.deps.Clock.Boot()-began) > 10*time.Second {
			backoff.Reset()
		}
		if backoff.Wait(ctx) != nil {
			return nil
		}
	}
	return nil
}

// talk runs one session: a resting one, or one that feeds from where the server
// wants to go on.
func (c *Connector) talk(ctx context.Context) error {
	hello, from := c.hello()
	conn, _, err := local.Dial(ctx, c.cfg.socket(), hello)
	if err != nil {
		return err
	}
	c.deps.Log.Debug("session with the node", "rest", hello.Rest, "from", hello.End.String())
	if !hello.Rest {
		c.window.begin(from)
	}
	defer c.window.finish()
	defer c.note(func() { c.role, c.bare = local.Role{}, false })
	bare := hello.Lineage == ""
	c.note(func() { c.bare = bare })
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // Recv reports it
	defer stop()
	g.Go(func() error { return c.hear(conn) })
	g.Go(func() error { return c.speak(ctx, conn, hello.Rest) })
	g.Go(func() error { return c.watch(ctx, bare) })
	err = g.Wait()
	_ = conn.Close() // a session's end is known from what ended it
	return err
}

// hello introduces the connector as what it is now.
func (c *Connector) hello() (local.Hello, wal.LSN) {
	from, rest, _ := c.window.wants()
	c.mu.Lock()
	defer c.mu.Unlock()
	h := local.Hello{
		Service: c.cfg.Service, Stream: c.cfg.Stream, Kind: Kind, Dir: c.server.DataDir(), Endpoint: c.cfg.Endpoint,
		End: from.Position(), Rest: rest,
	}
	if !c.offers() {
		h.End, h.Rest = 0, true
		return h, 0
	}
	h.Lineage, h.Generation = c.saved.Lineage, c.saved.Generation
	if rest {
		h.End = c.holds().Position()
	}
	return h, from
}

// holds is the end of what the server has, as far as that is known; mu is held.
func (c *Connector) holds() wal.LSN {
	switch {
	case !c.offers():
		return 0
	case !c.answers:
		return wal.LSN(c.saved.At) // 0 before a promotion
	}
	return max(c.seen.Replayed, c.seen.Received)
}

// watch ends the session when the server wants another place than it is at, or when
// there is something to offer now, or no more.
func (c *Connector) watch(ctx context.Context, bare bool) error {
	for {
		changed := c.window.watch()
		c.mu.Lock()
		other := c.offers() == bare
		c.mu.Unlock()
		if _, _, again := c.window.wants(); again && !bare || other {
			return errAgain
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// hear takes what the node says.
func (c *Connector) hear(conn *local.Conn) error {
	for {
		m, err := conn.Recv()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *local.Role:
			err = c.part(m)
			ring(c.kick)
		case *local.Batch:
			if err = c.window.take(m); errors.Is(err, tidegate.ErrGap) {
				c.note(func() { c.gap = true }) // a newer base has what was trimmed
			}
			ring(c.asked)
		case *local.Rewind:
			err = c.rewind(m)
		case *local.DaemonProgress: // the grant is the agent's connector's
		default:
			err = fmt.Errorf("node sent %T", m)
		}
		if err != nil {
			return err
		}
	}
}

// part takes over a role; first, what it says of the log's history.
func (c *Connector) part(m *local.Role) error {
	if err := c.inherit(m); err != nil {
		return err
	}
	role := *m
	c.note(func() { c.role, c.session = role, nil })
	ring(c.asked)
	return nil
}

// inherit takes the lineage of the batches that follow. It is written down before
// any of them is given to the server, so that it never holds log of a timeline
// that the connector does not know of after a restart.
func (c *Connector) inherit(m *local.Role) error {
	c.mu.Lock()
	was := c.saved
	c.mu.Unlock()
	if m.State != local.StateFollow || m.Lineage == "" || was.Phase != phaseFollowing && was.Phase != phasePromoting {
		return nil
	}
	if m.Generation != 0 && m.Generation != was.Generation {
		return nil // of another base: nothing of it is for this server
	}
	own, err := wal.ParseLineage(was.Lineage)
	if err != nil {
		return err
	}
	told, err := wal.ParseLineage(m.Lineage)
	if err != nil {
		return &tidegate.Error{Op: "follow", Class: tidegate.Permanent, Err: err}
	}
	if _, known := told.Until(own.Timeline()); !known || len(told.Forks) <= len(own.Forks) {
		told = own // an older part of the log
	} else if prefix, _ := told.Until(own.Timeline()); prefix.Text() != own.Text() {
		return &tidegate.Error{
			Op: "follow", Subject: c.server.DataDir(), Class: tidegate.Permanent,
			Err:  fmt.Errorf("server is of %s, the log goes on as %s: %w", own, told, tidegate.ErrDiverged),
			Hint: "the server has followed another history; move its home aside to have it restored from a base",
		}
	}
	if told.Text() != was.Lineage {
		if err := c.save(func(s *saved) { s.Lineage = told.Text() }); err != nil {
			return err
		}
		c.deps.Log.Info("log goes on in a new timeline", "lineage", told.String())
	}
	c.window.bear(told, wal.LSN(m.ApplyTo))
	return nil
}

// rewind is what a server cannot do by itself.
func (c *Connector) rewind(m *local.Rewind) error {
	why := fmt.Sprintf("epoch %s goes on from %s, and it holds more than that", m.Epoch, wal.LSN(m.To))
	c.mu.Lock()
	has := c.offers()
	active := c.verified
	c.mu.Unlock()
	switch {
	case active:
		return fmt.Errorf("told to rewind to %s while active: %w", m.To, tidegate.ErrConflict)
	case !has:
		return nil
	}
	if err := c.save(func(s *saved) { s.Phase, s.Why = phaseStoodDown, why }); err != nil {
		return err
	}
	ring(c.changed) // the plan stops it
	return nil
}

// speak tells the node how far the server is.
func (c *Connector) speak(ctx context.Context, conn *local.Conn, rest bool) error {
	tick := time.NewTicker(c.cfg.ProgressEvery)
	defer tick.Stop()
	var said report
	for {
		if err := c.report(conn, &said, rest); err != nil {
			return fmt.Errorf("report progress: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-c.kick:
		case <-tick.C:
		}
	}
}

// report is what a session has said so far.
type report struct {
	active  bool
	finding string
	back    saidBack
}

func (c *Connector) report(conn *local.Conn, said *report, rest bool) error {
	end, _ := c.window.came()
	c.mu.Lock()
	active, at := c.verified, c.saved.At
	m := local.LibraryProgress{Applied: c.applied().Position()}
	if m.End = end.Position(); rest {
		m.End = c.holds().Position()
	} else {
		m.Room = c.window.room().Position()
	}
	m.L.Position = m.End // what the server has is there to be compared
	lineage, finding := c.saved.Lineage, c.finding()
	asked, asks := c.feedback(&said.back)
	c.mu.Unlock()
	if active && !said.active {
		if err := conn.Send(&local.Activated{Lineage: lineage, L: max(at, m.End)}); err != nil {
			return err
		}
	}
	if !active && said.active {
		if err := conn.Send(&local.Deactivated{}); err != nil {
			return err
		}
	}
	said.active = active
	if f := local.FindingOf(finding); f.Text != said.finding {
		if err := conn.Send(f); err != nil {
			return err
		}
		said.finding = f.Text
	}
	if asks {
		if err := conn.Send(&asked); err != nil {
			return err
		}
	}
	return conn.Send(&m)
}

// applied is what the server has replayed, no further than the node has said is
// committed: behind a switch record the server counts the padding, too. mu is held.
func (c *Connector) applied() wal.LSN {
	switch limit := c.window.committed(); {
	case !c.offers():
		return 0
	case c.saved.Phase == phasePromoting && c.answers && !c.seen.Recovery, c.verified:
		return max(wal.LSN(c.saved.At), c.seen.Replayed)
	case !c.answers:
		return 0
	case limit != 0:
		return min(c.replayed(), limit)
	default:
		return c.replayed()
	}
}
