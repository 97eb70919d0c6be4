package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/release"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
)

// redial bounds the wait for a daemon that is not there: it is on this machine,
// and while it is away nothing is released.
var redial = retry.Policy{First: 20 * time.Millisecond, Max: time.Second}

// fatalError wraps what must end Run; any other error of a session only ends
// the session.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

// Run connects the journal to the daemons on this node until ctx ends, and
// reconnects as often as needed. It returns nil when ctx ended, or the first
// error after which the service must not go on: a failed disk, an Apply or
// Promote that failed, a journal that diverged from the stream. Without Run
// nothing is ever released. May be called once.
func (j *Journal) Run(ctx context.Context, svc Service) error {
	j.mu.Lock()
	again := j.ran
	j.ran = true
	j.mu.Unlock()
	if again {
		return &tidegate.Error{Op: "run journal", Subject: j.dir, Class: tidegate.Misuse, Err: errors.New("called twice")}
	}
	if err := j.resume(ctx, svc); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	f := &follower{j: j, svc: svc}
	g.Go(func() error { return j.watch(ctx) })
	g.Go(func() error { return j.tend(ctx) })
	if j.cfg.AgentSocket != "" {
		g.Go(func() error {
			return j.connect(ctx, j.cfg.AgentSocket, func(ctx context.Context, c *local.Conn, _ local.Welcome) error {
				j.agentConn.Store(c)
				r := &reporter{j: j, svc: svc, conn: c, kick: j.agentKick, applied: &f.reached}
				return (&agentLink{j: j, svc: svc, conn: c}).run(ctx, r)
			})
		})
	}
	if j.cfg.StandbySocket != "" {
		g.Go(func() error { return f.syncLazily(ctx) })
		g.Go(func() error {
			return j.connect(ctx, j.cfg.StandbySocket, func(ctx context.Context, c *local.Conn, w local.Welcome) error {
				r := &reporter{j: j, svc: svc, conn: c, kick: j.standbyKick, applied: &f.reached}
				return (&standbyLink{f: f, conn: c}).run(ctx, w, r)
			})
		})
	}
	return g.Wait()
}

// watch ends Run when the committer has failed.
func (j *Journal) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-j.failed:
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.err
	}
}

// connect keeps a session with the daemon at path going until ctx ends.
func (j *Journal) connect(ctx context.Context, path string, session func(context.Context, *local.Conn, local.Welcome) error) error {
	log := j.cfg.Log.With("socket", path, "stream", string(j.cfg.Stream))
	backoff := redial.Backoff()
	for last := ""; ctx.Err() == nil; {
		began := j.cfg.Clock.Boot()
		err := j.session(ctx, path, session, log)
		var fatal fatalError
		if errors.As(err, &fatal) {
			return fatal.error
		}
		if ctx.Err() != nil {
			return nil
		}
		// One line per change: a daemon that is away is asked for every second.
		if err != nil && err.Error() != last {
			last = err.Error()
			log.Warn("no session with the daemon", "err", err, "hint", tidegate.HintOf(err))
		}
		if time.Duration(j.cfg.Clock.Boot()-began) > 10*time.Second {
			backoff.Reset()
		}
		if backoff.Wait(ctx) != nil {
			return nil
		}
	}
	return nil
}

// session dials once and talks until either end stops.
func (j *Journal) session(ctx context.Context, path string, talk func(context.Context, *local.Conn, local.Welcome) error, log *slog.Logger) error {
	conn, welcome, err := local.Dial(ctx, path, local.Hello{
		Service: j.cfg.Service, Stream: j.cfg.Stream, Kind: local.KindJournal,
		Dir: j.dir, Lineage: j.Lineage(), End: j.End(), Endpoint: j.cfg.Endpoint,
	})
	if err != nil {
		return err
	}
	log.Info("session with the daemon", "daemon", welcome.Daemon.String(), "node", string(welcome.Node))
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // unblocks Recv
	defer stop()
	err = talk(ctx, conn, welcome)
	_ = conn.Close() // a session's end is known from what ended it
	return err
}

// reporter is the sending half of a session with either daemon: who is active,
// and progress, at once when kicked and every ProgressEvery.
type reporter struct {
	j       *Journal
	svc     Service
	conn    *local.Conn
	kick    <-chan struct{}
	applied *atomic.Uint64 // what the follower has applied; 0 while it does not follow

	announcer release.Announcer
	asked     tidegate.Instant      // when the service was asked for its state
	state     local.LibraryProgress // applied, digest and digest position
}

func (r *reporter) run(ctx context.Context) error {
	tick := time.NewTicker(r.j.cfg.ProgressEvery)
	defer tick.Stop()
	for {
		if err := r.report(); err != nil {
			return fmt.Errorf("report progress: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.kick:
		case <-tick.C:
		}
	}
}

func (r *reporter) report() error {
	r.askState()
	m := local.LibraryProgress{
		End: r.j.End(), Applied: r.state.Applied, Digest: r.state.Digest, DigestAt: r.state.DigestAt,
	}
	if p := r.applied.Load(); p != 0 {
		m.Applied = tidegate.Position(p)
	}
	r.j.seal()
	activation, active, start := r.j.gate.progress(&m)
	if err := r.announcer.Announce(r.conn.Send, r.j.Lineage(), activation, active, start); err != nil {
		return err
	}
	return r.conn.Send(&m)
}

func (r *reporter) askState() {
	now := r.j.cfg.Clock.Boot()
	if r.asked != 0 && time.Duration(now-r.asked) < r.j.cfg.ProgressEvery {
		return
	}
	r.asked = now
	at, digest := r.svc.State()
	r.state.Applied, r.state.Digest, r.state.DigestAt = at, digest, at
}

// agentLink is one session with the agent: the grant comes in.
type agentLink struct {
	j    *Journal
	svc  Service
	conn *local.Conn
}

func (l *agentLink) run(ctx context.Context, r *reporter) error {
	// Whatever ends the session: what is granted stays, nothing more is.
	defer l.j.gate.release(true)
	return l.conn.Pair(ctx, l.recv, r.run)
}

func (l *agentLink) recv(context.Context) error {
	for {
		m, err := l.conn.Recv()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *local.Role:
			l.role(m)
		case *local.DaemonProgress:
			l.j.gate.grant(m)
		default:
			return fmt.Errorf("agent sent %T", m)
		}
	}
}

func (l *agentLink) role(m *local.Role) {
	switch m.State {
	case local.StateActive:
		l.j.gate.hold(m.Epoch)
	case local.StateFenced:
		l.j.fence(m.Epoch, l.svc)
	case local.StateIdle, local.StateFollow:
		l.j.gate.release(false)
	}
}

// fence stops the journal for a newer epoch, and tells the service once.
func (j *Journal) fence(epoch tidegate.Epoch, svc Service) {
	if !j.gate.fence(epoch) {
		return
	}
	j.cfg.Log.Error("fenced", "stream", string(j.cfg.Stream), "epoch", uint64(epoch))
	svc.Fenced(epoch)
}
