package capture

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const (
	guardEvery   = 10 * time.Second
	guardTimeout = 10 * time.Second
	// rateOver is the time over which the server's rate of log is taken.
	rateOver = 5 * time.Minute
	// unloggedEvery is how often a database is looked into for unlogged tables: each
	// takes a connection of its own.
	unloggedEvery = 10 * time.Minute
)

// errSlotDropped is why nothing is streamed after the operator's policy gave the
// slot up.
var errSlotDropped = errors.New("the slot was dropped, as drop_slot_below says")

// guard looks at the server now and then, for people. It belongs to one goroutine.
type guard struct {
	c        *Capture
	sql      *replication.SQL // nil while none is open
	samples  []sample
	unlogged map[string]look // by database
}

// sample is what a round has measured.
type sample struct {
	at   tidegate.Instant
	end  wal.LSN
	held int64 // by our slot; -1 while there is none
}

// look is what was seen of one database.
type look struct {
	at   tidegate.Instant
	text string // its unlogged tables; "" for none
	err  error
}

// keepGuard surveys the server until ctx ends.
func (c *Capture) keepGuard(ctx context.Context) error {
	g := &guard{c: c, unlogged: map[string]look{}}
	defer g.close()
	tick := time.NewTicker(c.cfg.GuardEvery)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, guardTimeout)
		g.round(one)
		cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-c.inspect:
		}
	}
}

func (g *guard) close() {
	if g.sql != nil {
		_ = g.sql.Close() // only asked
		g.sql = nil
	}
}

// round surveys and judges once. A server that cannot be asked although it streams
// is a finding; one that is away is somebody else's.
func (g *guard) round(ctx context.Context) {
	// Asked before the look: names that were set before the wish to leave are seen.
	leaving := g.c.isLeaving()
	f, err := g.look(ctx)
	if err != nil {
		g.close()
		g.samples = nil
		if !g.c.Status().Streaming {
			g.c.guarded(nil)
		} else if ctx.Err() == nil {
			g.c.guarded([]local.Finding{{
				Name: foundUnseen, Severity: local.SeverityWarning, Class: tidegate.ClassOf(err), Text: "the server cannot be looked at: " + err.Error(),
				Hint: "the role needs LOGIN and pg_monitor: GRANT pg_monitor TO <role>; and a line in pg_hba.conf for its database",
			}})
		}
		return
	}
	c := g.c
	found := judge(f)
	if leaving {
		found = append(found, g.leave(ctx, &f.survey)...)
	}
	c.guarded(found)
	c.noteKept(&f.survey)
	why, drop := mustDrop(f)
	switch {
	case drop && f.survey.InRecovery && !c.cfg.Replica:
		c.unreserve(why)
	case drop:
		g.giveUp(ctx, why)
	default:
		g.stayGivenUp(ctx, &f.survey)
	}
}

// look collects the facts of a round.
func (g *guard) look(ctx context.Context) (f *facts, err error) {
	c := g.c
	if g.sql == nil {
		if g.sql, err = replication.ConnectSQL(ctx, c.cfg.server(c.cfg.Name+"_guard")); err != nil {
			return nil, err
		}
	}
	f = &facts{settings: c.cfg.Settings, anew: stores.AcceptGapCommand(c.cfg.Service, c.cfg.Stream)}
	if f.survey, err = g.sql.Survey(ctx); err != nil {
		return nil, err
	}
	f.disk = g.room(&f.survey)
	f.rate, f.grows = g.rates(&f.survey)
	if !f.survey.InRecovery {
		f.unlogged, f.unloggedErr = g.lookInto(ctx, f.survey.Databases)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f.promises, f.gaveUp = c.promises(), c.gaveUp != nil || c.unreserved != nil
	f.reserves = c.reserves(false)
	return f, nil
}

// room looks at the disk of pg_wal, as far as that is this machine's.
func (g *guard) room(s *replication.Survey) (d disk) {
	dir := g.c.cfg.WALDisk
	switch data := s.Settings["data_directory"]; {
	case dir != "":
	case !s.Beside:
		d.err = errors.New("the server is not reached over a Unix socket, and may be on another machine")
	case data == "":
		d.err = errors.New("the role does not see data_directory: GRANT pg_monitor TO <role>")
	default:
		dir = filepath.Join(data, "pg_wal")
	}
	if d.err == nil {
		d.free, d.total, d.err = g.c.cfg.Free(dir)
	}
	return d
}

// rates takes a sample and returns the rates over the last ones; -1 is not known.
func (g *guard) rates(s *replication.Survey) (log, held float64) {
	now := sample{at: g.c.clock.Boot(), end: s.End, held: -1}
	for _, one := range s.Slots {
		if one.Name == g.c.cfg.Slot && one.Restart != 0 {
			now.held = int64(s.End) - int64(one.Restart)
		}
	}
	for len(g.samples) > 0 && (time.Duration(now.at-g.samples[0].at) > rateOver || g.samples[0].end > now.end) {
		g.samples = g.samples[1:]
	}
	g.samples = append(g.samples, now)
	first := g.samples[0]
	took := time.Duration(now.at - first.at).Seconds()
	if len(g.samples) < 3 || took <= 0 {
		return -1, -1
	}
	log, held = float64(now.end-first.end)/took, -1
	if i := slices.IndexFunc(g.samples, func(s sample) bool { return s.held >= 0 }); i < len(g.samples)-2 && now.held >= 0 && i >= 0 {
		first = g.samples[i] // the slot may not have been there before
		held = float64(now.held-first.held) / time.Duration(now.at-first.at).Seconds()
	}
	return log, held
}

// lookInto looks for unlogged tables in one database a round, the longest not seen
// first, and says what is known of all.
func (g *guard) lookInto(ctx context.Context, databases []string) (found, unknown []string) {
	now := g.c.clock.Boot()
	due, oldest := "", tidegate.Instant(0)
	for _, d := range databases {
		seen, ever := g.unlogged[d]
		if ever && time.Duration(now-seen.at) < unloggedEvery {
			continue
		}
		if due == "" || seen.at < oldest {
			due, oldest = d, seen.at
		}
	}
	if due != "" {
		text, err := g.unloggedIn(ctx, due)
		g.unlogged[due] = look{now, text, err}
	}
	for _, d := range databases {
		switch seen, ever := g.unlogged[d]; {
		case !ever: // the next rounds'
		case seen.err != nil:
			unknown = append(unknown, "database "+d+" ("+seen.err.Error()+")")
		case seen.text != "":
			found = append(found, seen.text)
		}
	}
	return found, unknown
}

func (g *guard) unloggedIn(ctx context.Context, database string) (text string, err error) {
	server := g.c.cfg.server(g.c.cfg.Name + "_guard")
	server.Database = database
	sql, err := replication.ConnectSQL(ctx, server)
	if err != nil {
		return "", err
	}
	defer func() { _ = sql.Close() }() // only asked
	n, some, err := sql.Unlogged(ctx)
	if err != nil || n == 0 {
		return "", err
	}
	return fmt.Sprintf("%d in database %s (%s)", n, database, list(some)), nil
}

// guarded notes what a round has found.
func (c *Capture) guarded(all []local.Finding) {
	c.mu.Lock()
	c.guards = all
	c.mu.Unlock()
	signal(c.report)
}

// giveUp drops the slot, so that the server lives: what the operator has declared.
// Nothing is streamed any more, and nobody makes the slot again, before a new
// generation is declared.
func (g *guard) giveUp(ctx context.Context, why string) {
	c := g.c
	if err := c.remember(why); err != nil {
		// The server comes first: its disk is about to be full.
		c.log.Error("an agent that is started again will not know that the slot was given up", "err", err)
	}
	if !g.drop(ctx, c.slotGivenUp(why)) {
		return
	}
	c.log.Error("SLOT DROPPED, the stream needs a new generation", "slot", c.cfg.Slot, "why", why)
	if err := g.sql.Checkpoint(ctx); err != nil {
		c.log.Warn("no checkpoint: the log goes with the server's next one", "err", err, "hint", "GRANT pg_checkpoint TO <role>")
	}
}

// stayGivenUp finishes what an earlier run had begun, or this one could not: the slot
// goes. A server that follows another keeps nothing for us, and what it becomes later
// is not what was given up.
func (g *guard) stayGivenUp(ctx context.Context, s *replication.Survey) {
	c := g.c
	why := c.givenUp()
	switch {
	case !errors.Is(why, errSlotDropped):
	case s.InRecovery:
		if err := c.unremember(); err != nil {
			c.log.Warn("slot still counts as given up", "err", err)
			return
		}
		c.mu.Lock()
		if c.gaveUp == why { //nolint:errorlint // the very one
			c.gaveUp = nil
		}
		c.mu.Unlock()
	case slices.ContainsFunc(s.Slots, func(one replication.SlotState) bool { return one.Name == c.cfg.Slot }):
		g.drop(ctx, why)
	}
}

// drop ends the stream for good, which why says, and drops the slot. What fails is
// logged, and tried again by the next round.
func (g *guard) drop(ctx context.Context, why error) (dropped bool) {
	c := g.c
	c.mu.Lock()
	c.gaveUp = why
	l := c.link
	c.mu.Unlock()
	if l != nil {
		_ = l.stream.Close() // the receiver reports it, and does not come again
	}
	c.find(why)
	for {
		err := g.sql.DropSlot(ctx, c.cfg.Slot)
		if err == nil || errors.Is(err, replication.ErrSlotMissing) {
			return true
		}
		if !errors.Is(err, replication.ErrSlotBusy) {
			c.log.Error("slot not dropped", "slot", c.cfg.Slot, "err", err, "hint", tidegate.HintOf(err))
			return false
		}
		pause := time.NewTimer(pingPause) // the server has yet to see that we left
		select {
		case <-ctx.Done():
			pause.Stop()
			return false
		case <-pause.C:
		}
	}
}

// givenUp returns why nothing is to be streamed any more; nil while nothing keeps
// us from it.
func (c *Capture) givenUp() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gaveUp
}

// Findings implements [stores.Finder].
func (c *Capture) Findings() []local.Finding {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.found(nil)
}

// found appends what is found now; mu is held.
func (c *Capture) found(out []local.Finding) []local.Finding {
	if err := c.trouble(); err != nil {
		out = append(out, *local.FindingOf(err))
	}
	if f, some := c.cancels.finding(c.durable()); some {
		out = append(out, f)
	}
	return append(out, c.guards...)
}

// durable is what the other site has; 0 while not known. mu is held.
func (c *Capture) durable() wal.LSN {
	if c.gate.Ceiling == nil {
		return 0
	}
	d, _ := c.gate.Ceiling.D()
	return wal.LSN(d)
}
