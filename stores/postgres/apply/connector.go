package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
	"github.com/tidegate/tidegate/stores/postgres/walsender"
)

// stateFile is the connector's own in its home.
const stateFile = "apply.json"

// lookEvery is how often the facts are looked at when nobody says that they have
// changed.
const lookEvery = 500 * time.Millisecond

// Connector keeps one stream's warm server. See the package's comment.
type Connector struct {
	cfg    Config
	deps   Deps
	server *server.Server
	window *window

	changed chan struct{} // wakes the deciding goroutine; capacity 1
	asked   chan struct{} // wakes the one that asks the server; capacity 1
	kick    chan struct{} // wakes the session's sender; capacity 1
	tailed  chan struct{} // wakes the one that reports a tail; capacity 1
	ready   chan struct{}

	mu       sync.Mutex
	saved    saved
	control  server.Control // of the data directory; zero while there is none
	role     local.Role     // of the session that runs; State 0 before the first
	bare     bool           // the session that runs offers nothing: its lineage is all the log's
	seen     server.State   // of the server, as last asked
	answers  bool           // seen is of now
	up       bool           // the server's process is there
	decision decision
	// unreadable is why the data directory does not say what it is: nothing is done with
	// it; nil while it does.
	unreadable error
	failure    error          // of the last step
	session    error          // what a session with the node ended with
	fatal      server.Finding // the newest one that ended the server or its recovery
	gap        bool           // the log here begins behind what the server needs
	verified   bool           // in this run: the server is out of recovery as saved says
	back       back
}

// New returns a connector that has done nothing yet.
func New(deps Deps, cfg Config) (*Connector, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "configure warm server of", Subject: fmt.Sprintf("%s/%s", cfg.Service, cfg.Stream), Class: tidegate.Misuse, Err: err}
	}
	deps.Log = deps.Log.With("stream", fmt.Sprintf("%s/%s", cfg.Service, cfg.Stream))
	srv, err := server.New(deps.FS, deps.Clock, deps.Log, cfg.Server)
	if err != nil {
		return nil, err
	}
	kick := make(chan struct{}, 1)
	return &Connector{
		cfg: cfg, deps: deps, server: srv, window: newWindow(cfg.WindowBytes, func() { ring(kick) }),
		changed: make(chan struct{}, 1), asked: make(chan struct{}, 1), kick: kick, tailed: make(chan struct{}, 1), ready: make(chan struct{}),
	}, nil
}

// ring wakes whoever listens on c; ringing twice is ringing once.
func ring(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Ready is closed when the walsender's socket is there and the state was read.
func (c *Connector) Ready() <-chan struct{} { return c.ready }

// Run keeps the warm server until ctx ends, and returns nil then. The server is
// left running: the next Run finds it. It returns an error only for what a retry
// cannot change: a state file that cannot be read, a socket that is taken. May be
// called once.
func (c *Connector) Run(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	sender, err := walsender.New(&source{c}, c.deps.FS, c.deps.Clock, c.deps.Log, walsender.Config{
		Directory: c.cfg.upstreamDir(), Port: c.cfg.Server.Upstream.Port,
	}, c.events())
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return sender.Run(ctx) })
	g.Go(func() error {
		select {
		case <-sender.Ready():
			close(c.ready)
		case <-ctx.Done():
			return nil
		}
		inner, ctx := errgroup.WithContext(ctx)
		inner.Go(func() error { return c.server.Run(ctx, c.found) })
		inner.Go(func() error { return c.sessions(ctx) })
		inner.Go(func() error { return c.observe(ctx) })
		inner.Go(func() error { return c.decide(ctx) })
		inner.Go(func() error { return c.account(ctx) })
		return inner.Wait()
	})
	return g.Wait()
}

// prepare makes the directories and reads what was decided before.
func (c *Connector) prepare() error {
	for _, dir := range []string{c.cfg.Server.Home, c.cfg.upstreamDir()} {
		if err := durable.MkdirAll(c.deps.FS, dir); err != nil {
			return fmt.Errorf("make home of warm server: %w", err)
		}
	}
	// The server's account must pass, and nobody else.
	dir, mode := c.cfg.upstreamDir(), os.FileMode(0o700)
	if a := c.cfg.Server.Account; a != nil {
		mode = 0o710
		if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil { //nolint:gosec // to be passed through; what is in it is closed
			return fmt.Errorf("make way for the warm server: %w", err)
		}
		if err := os.Chown(dir, -1, int(a.GID)); err != nil {
			return fmt.Errorf("make way for the warm server: %w", err)
		}
	}
	if err := os.Chmod(dir, mode); err != nil {
		return fmt.Errorf("make way for the warm server: %w", err)
	}
	s, err := readSaved(c.deps.FS, c.statePath())
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.saved = s
	if s.Phase == phasePromoting {
		c.window.shut(wal.LSN(s.At))
	}
	c.unreadable = c.learn()
	return nil
}

// relearn looks again at a data directory that could not be read.
func (c *Connector) relearn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unreadable == nil {
		return
	}
	if c.unreadable = c.learn(); c.unreadable == nil {
		ring(c.kick)
		c.window.stir()
	}
}

// offers reports whether the session has something to offer; mu is held.
func (c *Connector) offers() bool { return c.saved.offered() && c.unreadable == nil }

// learn takes from the data directory what the walsender tells; mu is held.
func (c *Connector) learn() error {
	if !c.saved.offered() {
		return nil
	}
	l, err := wal.ParseLineage(c.saved.Lineage)
	if err != nil {
		return err
	}
	if c.control, err = c.server.Control(); err != nil {
		return &tidegate.Error{
			Op: "take up warm server", Subject: c.server.DataDir(), Class: tidegate.Permanent, Err: err,
			Hint: "its data directory is damaged: move its home aside and restart the daemon, which restores it anew from the base",
		}
	}
	if c.control.System != l.System {
		return &tidegate.Error{
			Op: "take up warm server", Subject: c.server.DataDir(), Class: tidegate.Permanent,
			Err:  fmt.Errorf("data directory is of system %d, it was restored from %d: %w", c.control.System, l.System, tidegate.ErrConflict),
			Hint: "somebody has put another data directory there; move the home aside to have it restored anew",
		}
	}
	if c.saved.Release == "" {
		if c.saved.Release, err = c.release(); err != nil {
			return err
		}
	}
	c.window.bear(l, 0)
	return nil
}

func (c *Connector) statePath() string { return filepath.Join(c.cfg.Server.Home, stateFile) }

// note changes what is known, and has it looked at.
func (c *Connector) note(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
	ring(c.changed)
}

// save writes down a decision, then holds it.
func (c *Connector) save(change func(*saved)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.saved
	change(&next)
	if err := writeSaved(c.deps.FS, c.statePath(), next); err != nil {
		return err
	}
	c.saved = next
	c.window.stir()
	return nil
}

func (c *Connector) found(f server.Finding) {
	c.note(func() {
		if f.Fatal {
			c.fatal = f
		}
	})
	ring(c.asked)
	level := c.deps.Log.Info
	if f.Fatal {
		level = c.deps.Log.Warn
	}
	level("warm server says", "kind", string(f.Kind), "message", f.Message, "hint", f.Hint)
}

// decide takes one step after the other until ctx ends.
func (c *Connector) decide(ctx context.Context) error {
	backoff := retry.Policy{First: 50 * time.Millisecond, Max: 5 * time.Second}.Backoff()
	c.look(ctx) // a server of an earlier run may be there
	for ctx.Err() == nil {
		c.relearn()
		d := plan(c.facts())
		var err error
		if d.step != stepWait {
			c.deps.Log.Info("warm server", "step", d.step.String(), "because", d.why)
			err = c.act(ctx, d)
		}
		if ctx.Err() != nil {
			return nil
		}
		c.tell(d, err)
		switch {
		case err != nil:
			if backoff.Wait(ctx) != nil {
				return nil
			}
			continue
		case d.step != stepWait:
			continue
		}
		backoff.Reset()
		select {
		case <-ctx.Done():
		case <-c.changed:
		case <-time.After(lookEvery):
		}
	}
	return nil
}

// tell notes what was decided and how it went; the session's sender passes it on.
func (c *Connector) tell(d decision, err error) {
	c.mu.Lock()
	old := c.finding()
	if err != nil || d.step == stepWait {
		if err != nil && (c.failure == nil || c.failure.Error() != err.Error()) {
			c.deps.Log.Warn("step of the warm server failed", "step", d.step.String(), "err", err, "hint", tidegate.HintOf(err))
		}
		if d.step != stepWait || !d.stuck {
			c.failure = err
		}
	}
	c.decision = d
	now := c.finding()
	c.mu.Unlock()
	if fmt.Sprint(old) != fmt.Sprint(now) {
		ring(c.kick)
	}
}

// finding is what keeps the server from its work; nil when nothing does. mu is held.
func (c *Connector) finding() error {
	switch {
	case c.unreadable != nil:
		return c.unreadable
	case c.failure != nil:
		return c.failure
	case c.session != nil:
		return c.session
	case c.decision.stuck:
		return &tidegate.Error{
			Op: "keep warm server", Class: tidegate.Permanent, Err: errors.New(c.decision.why), Hint: hintFor(c.saved.Phase),
		}
	case c.fatal.Fatal && !c.answers && c.saved.Phase != phaseNone:
		return &tidegate.Error{Op: "keep warm server", Class: tidegate.Transient, Err: errors.New(c.fatal.Message), Hint: c.fatal.Hint}
	}
	return nil
}

func hintFor(p phase) string {
	switch p {
	case phaseStoodDown:
		return "it holds log that the stream went on without: rewind it with pg_rewind, or move its home aside to have it restored from a base"
	case phaseNone, phaseFollowing:
		return "the base is on its way, or has to be seeded: see the stream's state on this node"
	case phaseRestoring, phasePromoting, phaseActive, phaseLeft:
	}
	return ""
}

// facts gathers what the next step is chosen from.
func (c *Connector) facts() facts {
	c.mu.Lock()
	f := facts{saved: c.saved, role: c.role, adopted: c.cfg.adopts(), bare: c.bare, unreadable: c.unreadable != nil}
	if c.answers && c.seen.Recovery {
		f.server, f.replayed, f.received = serverRecovery, c.seen.Replayed, c.seen.Received
	} else if c.answers {
		f.server = serverPrimary
	} else if c.up {
		f.server = serverStarting
	}
	verified, gap := c.verified, c.gap
	c.mu.Unlock()
	if f.saved.Phase == phaseActive && f.server == serverPrimary && !verified {
		f.unverified = true
	}
	of := f.role.Generation
	if of != 0 && f.saved.Generation != 0 && f.saved.Phase == phaseFollowing {
		f.lost = of != f.saved.Generation || gap
	}
	if f.role.State == local.StateFollow && (f.saved.Phase == phaseNone || f.saved.Phase == phaseRestoring || f.lost) {
		_, l, err := c.base(of, c.line(f.role))
		// The base that it was made from would end at the same gap, again and again.
		f.base = err == nil && (!f.lost || l.Name.String() != f.saved.Base)
	}
	return f
}

// observe asks the server how it is: often while it is a little behind what the node
// has committed, for a promotion waits for it. It has work to do then, so it is not
// asked at every occasion, and seldom while it has much to do.
func (c *Connector) observe(ctx context.Context) error {
	// A server that refuses connections logs each one.
	const near, far, starting, idle = 10 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		c.look(ctx)
		pause, more := near, idle-near // between two looks at least, and until the next if nobody asks
		switch begins, behind := c.behind(); {
		case behind > farBehind:
			pause, more = far, 0
		case behind > 0:
			more = 0
		case begins:
			more = starting - near
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Reset(more)
		select {
		case <-ctx.Done():
		case <-c.asked:
		case <-timer.C:
		}
	}
	return nil
}

// farBehind is what takes a server longer to replay than the pause between two looks.
const farBehind wal.LSN = 32 << 20

// behind reports whether the server is about to take connections, and how much of
// what is committed it has yet to replay.
func (c *Connector) behind() (starting bool, behind wal.LSN) {
	limit := c.window.committed()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers && c.seen.Recovery && c.seen.Replayed < limit {
		behind = limit - c.seen.Replayed
	}
	return c.up && !c.answers, behind
}

// look asks once, and tells the others what changed.
func (c *Connector) look(ctx context.Context) {
	up, err := c.server.Running()
	var st server.State
	answers := false
	if up && err == nil {
		asking, cancel := context.WithTimeout(ctx, 5*time.Second)
		st, err = c.server.State(asking)
		cancel()
		answers = err == nil
	}
	limit := c.window.committed()
	c.mu.Lock()
	moved := c.up != up || c.answers != answers || c.seen.Recovery != st.Recovery
	arrived := answers && st.Recovery && st.Replayed != c.seen.Replayed && st.Replayed >= limit
	c.up, c.answers = up, answers
	if answers {
		c.seen = st
		c.fatal = server.Finding{}
	}
	if !up {
		c.verified = false
	}
	c.mu.Unlock()
	if moved || arrived {
		ring(c.changed)
		ring(c.kick)
	}
}
