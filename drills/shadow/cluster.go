package shadow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	pgrestore "github.com/tidegate/tidegate/stores/postgres/restore"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// cluster is the twin of a PostgreSQL cluster: a base that is restored in the sandbox, and
// a server that follows the log which is laid in its own pg_wal. Nobody streams to it.
type cluster struct {
	ground

	src   *archive.Stream
	bases *archive.Bases
	end   archive.Place // the last batch: the cut is where it ends
	hold  tidegate.Seq  // the first one that is left for later
	plan  *cold.Plan    // up to hold

	counted        bool   // all of the above is known, and
	records, bytes uint64 // of the backlog

	meter    cold.Meter
	store    *pgrestore.Restorer
	server   *server.Server // nil until it is started
	bin      string
	apart    []evidence.Check
	cut      *wal.LSN      // once it is laid
	logged   time.Time     // when the last transaction before it ended; zero: there is none
	replayed *server.State // once it is replayed
	promoted *server.Promotion
	launched bool
}

// begin implements [twin].
func (c *cluster) begin(ctx context.Context) error {
	if err := c.choose(ctx); err != nil {
		return fmt.Errorf("%s/%s: %w", c.d.cfg.Service, c.infos[0].Name, err)
	}
	if err := c.restorer(); err != nil {
		return err
	}
	target := cold.Target{FS: c.d.fs, Clock: c.d.clk, Dir: c.box.data()}
	if _, err := c.plan.Check(ctx, target); err != nil {
		return err
	}
	res, err := c.plan.Run(ctx, target, c.store, &c.meter)
	if err != nil {
		return err
	}
	c.server = c.store.Server()
	if err := c.server.Start(ctx, server.Follow); err != nil {
		return err
	}
	c.launched = true
	first := c.box.yield() // before most of its children are there: they inherit it
	ctx, done := c.alive(ctx)
	defer done()
	if err := c.server.WaitReady(ctx); err != nil {
		return err
	}
	if err := c.server.WaitReplayed(ctx, wal.LSN(res.Position)); err != nil {
		return err
	}
	if c.apart, err = sealedIn(ctx, c.server, c.box, c.sealed()); err != nil {
		return err
	}
	memory, err := memoryOf(ctx, c.server, errors.Join(first, c.box.yield()))
	if err != nil {
		return err
	}
	c.apart = append(c.apart, memory)
	return breached(c.apart)
}

// choose opens the stream: its cut, its base, and where the backlog begins.
func (c *cluster) choose(ctx context.Context) (err error) {
	info := c.infos[0]
	if c.src, err = c.reader.Open(ctx, info); err != nil {
		return err
	}
	if c.end, err = c.src.Tip(ctx); err != nil {
		return err
	}
	c.chosen()
	if c.hold, err = c.left.first(ctx, c.src, c.end); err != nil {
		return err
	}
	at, err := c.src.AtSeq(ctx, max(min(c.hold, c.end.Seq), c.src.Branch.Segments[0].First))
	if err != nil {
		return err
	}
	if at.Generation != c.end.Generation {
		at = c.end // each generation begins with a base of its own
	}
	base, err := c.base(ctx, at)
	if err == nil && base == nil {
		base, err = c.base(ctx, c.end) // the log goes back less far than the backlog
	}
	if err != nil {
		return err
	}
	if base != nil {
		_, consistent, err := c.src.From(ctx, base.Info)
		if err != nil {
			return err
		}
		c.hold = max(c.hold, consistent.Seq+1) // a server answers, and follows, once it is consistent
	}
	if c.plan, err = cold.Choose(ctx, c.src, c.bases, cold.Choice{To: cold.To{Seq: c.hold - 1}, NeedsBase: true}); err != nil {
		return err
	}
	if c.records, c.bytes, err = c.src.Count(ctx, c.hold, c.end.Seq); err != nil {
		return err
	}
	c.counted = true
	return c.space.need(uint64(max(0, c.plan.BaseBytes)) + 2*uint64(c.end.Next-c.plan.Begin.First) + slackBytes)
}

// pgPort is a part of a socket's name: the one that libpq looks for.
const pgPort = 5432

// slackBytes is what a server writes beside its files and its log: configuration, and a
// segment that is not full.
const slackBytes = 64 << 20

// base fetches the newest base that begins at or before a place; nil when there is none.
func (c *cluster) base(ctx context.Context, at archive.Place) (*archive.Base, error) {
	info := c.infos[0]
	err := c.d.src.Base(ctx, info.Stream, at, func(bytes int64, start tidegate.Position) error {
		// As it comes, as it is restored, the log, and what that makes of it: at most as much again.
		return c.space.need(2*uint64(max(0, bytes)) + 2*uint64(c.end.Next-min(start, c.end.Next)) + slackBytes)
	})
	if err != nil {
		return nil, err
	}
	if c.src, err = c.reader.Open(ctx, info); err != nil { // with the base that has come
		return nil, err
	}
	if c.bases != nil {
		c.bases.Close()
	}
	if c.bases, err = c.src.Bases(ctx); err != nil {
		return nil, err
	}
	for i := len(c.bases.All) - 1; i >= 0; i-- {
		if b := &c.bases.All[i]; b.Generation == at.Generation && b.Start <= at.Next {
			return b, nil
		}
	}
	return nil, nil
}

// restorer makes the server's home in the sandbox.
func (c *cluster) restorer() (err error) {
	pg := c.d.cfg.Postgres
	if c.bin = pg.BinDir; c.bin == "" {
		if c.bin, err = pgrestore.FindBin(c.plan.Base.Info); err != nil {
			return err
		}
	}
	account, err := pg.account()
	if err != nil {
		return err
	}
	if account != nil {
		if err := c.box.open(*account); err != nil {
			return err
		}
	}
	settings := pg.settings()
	if err := roomInMemory(settings); err != nil {
		return err
	}
	c.store, err = pgrestore.New(c.d.fs, c.d.clk, slog.New(slog.DiscardHandler), pgrestore.Config{
		Home: c.box.data(), BinDir: c.bin, Port: pgPort, Account: account, Settings: settings, User: pg.User,
		Follows: true, SocketDirs: []string{c.box.run()}, Name: "tidegate-drill", Final: c.sealed(), Environment: []string{c.box.variable()},
	})
	return err
}

// account is the user that the server runs as; nil: this process's.
func (p *Postgres) account() (*server.Account, error) {
	name := p.Account
	if name == "" && os.Getuid() == 0 {
		name = "postgres" // its server refuses to run as root
	}
	if name == "" {
		return nil, nil
	}
	a, err := server.LookupAccount(name)
	if err == nil && int(a.UID) == os.Getuid() {
		return nil, nil
	}
	return &a, err
}

// catchUp implements [twin].
func (c *cluster) catchUp(ctx context.Context) error {
	if err := c.lay(ctx); err != nil {
		if errors.Is(err, pgrestore.ErrHistory) {
			return offError{fmt.Errorf("%w: run it again with a smaller --backlog", err)}
		}
		return fmt.Errorf("copy log of %s/%s: %w", c.src.Info.Service, c.src.Info.Name, err)
	}
	end, err := c.store.Show()
	if err != nil {
		return err
	}
	c.cut, c.logged = &end, c.store.Last()
	return nil
}

// lay reads the backlog out of the node, verified, into the server's log.
func (c *cluster) lay(ctx context.Context) error {
	if c.hold > c.end.Seq {
		return nil
	}
	var opener batch.Opener
	var buf []byte
	for b, err := range c.src.Batches(ctx, c.hold) {
		if err != nil {
			return err
		}
		h, payload, err := opener.Open(buf, b.Sealed)
		if err != nil {
			return c.src.InSegment(b.Seq, err)
		}
		if h.Codec != batch.CodecNone {
			buf = payload[:0]
		}
		if _, err := c.store.Batch(ctx, &h, payload); err != nil {
			return fmt.Errorf("batch %d: %w", uint64(h.Seq), err)
		}
		if h.Seq == c.end.Seq {
			return nil
		}
	}
	return fmt.Errorf("it ends before batch %d: %w", uint64(c.end.Seq), tidegate.ErrGap)
}

// apply implements [twin].
func (c *cluster) apply(ctx context.Context) error {
	if err := c.server.WaitReplayed(ctx, *c.cut); err != nil {
		return err
	}
	st, err := c.server.State(ctx)
	if err != nil {
		return err
	}
	c.replayed = &st
	return nil
}

// promote implements [twin]. That the server's own history begins at the cut is made sure of.
func (c *cluster) promote(ctx context.Context) error {
	p, err := c.server.Promote(ctx, *c.cut)
	if p.Timeline != 0 {
		c.promoted = &p
	}
	return err
}

// aliveEvery is how often the server's process is looked for.
const aliveEvery = 100 * time.Millisecond

// started implements [twin].
func (c *cluster) started() bool { return c.launched }

// alive implements [twin].
func (c *cluster) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	// owned by the returned context: ends with it.
	go func() {
		tick := time.NewTicker(aliveEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if running, err := c.server.Running(); err == nil && !running {
				cancel(probe.Fault{Err: c.gone(false)})
				return
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// gone implements [twin].
func (c *cluster) gone(hungUp bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), hangUpWait)
	defer cancel()
	for {
		running, err := c.server.Running()
		if err == nil && !running {
			return c.server.WaitReady(ctx) // it is not there, and why is in its log
		}
		if err != nil || !hungUp {
			return nil
		}
		select {
		case <-time.After(aliveEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// stopWait is how long a server of a drill may take to end.
const stopWait = 10 * time.Second

// stop implements [twin]: nothing of it is wanted any more.
func (c *cluster) stop() error {
	if !c.started() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	return c.server.Stop(ctx, server.StopImmediate)
}

// close implements [twin].
func (c *cluster) close() {
	if c.bases != nil {
		c.bases.Close()
	}
}

// endServer ends the server that a sandbox has, as a postmaster wishes to be ended: one
// that is killed leaves shared memory behind. It returns its directory; empty: none ran.
func endServer(s *scratch, dir string) (string, error) {
	home := filepath.Join(dir, dataName)
	srv, err := server.New(s.fs, s.clk, slog.New(slog.DiscardHandler), server.Config{
		Home: home, BinDir: "/", StopTimeout: stopWait, Upstream: server.Upstream{SocketDir: filepath.Join(home, "run")},
	})
	if err != nil {
		return "", err
	}
	if running, err := srv.Running(); err != nil || !running {
		return "", err
	}
	return srv.DataDir(), srv.Stop(context.Background(), server.StopImmediate)
}
