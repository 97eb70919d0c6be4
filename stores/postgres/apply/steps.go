package apply

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// act takes one step. Every step may be cut short anywhere and taken again.
func (c *Connector) act(ctx context.Context, d decision) error {
	c.mu.Lock()
	role := c.role
	c.mu.Unlock()
	defer c.look(ctx) // the next step is chosen from what this one has made of it
	switch d.step {
	case stepWait:
		return nil
	case stepRestore, stepResume:
		return c.restore(ctx, role)
	case stepStart:
		return c.start(ctx)
	case stepPromote, stepVerify:
		return c.promote(ctx, role)
	case stepNote:
		return c.save(func(s *saved) { s.Epoch = role.Epoch })
	case stepFollow:
		c.window.shut(0)
		return c.save(func(s *saved) { s.Phase = phaseFollowing })
	case stepDrain:
		return c.drain(ctx)
	case stepUndrain:
		return c.undrain(ctx)
	case stepLeave:
		return c.leave(ctx, fmt.Sprintf("epoch %s went on elsewhere: %s", role.Epoch, d.why))
	case stepRejoin:
		return c.rejoin(ctx, role)
	case stepStop:
		return c.standDown(ctx, d.why)
	}
	return fmt.Errorf("step %d: %w", d.step, tidegate.ErrUnsupported)
}

// start starts the server for what its data is there for.
func (c *Connector) start(ctx context.Context) error {
	p, ok, err := c.server.Restored()
	if err != nil {
		return err
	}
	c.mu.Lock()
	phase := c.saved.Phase
	c.mu.Unlock()
	switch {
	case !ok:
		return &tidegate.Error{
			Op: "start warm server", Subject: c.server.DataDir(), Class: tidegate.Permanent, Err: tidegate.ErrNotFound,
			Hint: "its data directory is gone; move the home aside to have it restored anew",
		}
	case p == server.Serve && phase == phaseFollowing:
		return &tidegate.Error{
			Op: "start warm server", Subject: c.server.DataDir(), Class: tidegate.Permanent,
			Err:  fmt.Errorf("it would not follow, and was not promoted by us: %w", tidegate.ErrConflict),
			Hint: "somebody has promoted it, or removed standby.signal; move the home aside to have it restored anew",
		}
	}
	return c.server.Start(ctx, p)
}

// standDown stops the server for good. That is written down first: a crash in
// between must not leave it running.
func (c *Connector) standDown(ctx context.Context, why string) error {
	err := c.save(func(s *saved) {
		if s.Phase != phaseStoodDown { // why it did first is what counts
			s.Phase, s.Why = phaseStoodDown, why
		}
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.verified = false
	c.mu.Unlock()
	ring(c.kick)
	c.deps.Log.Warn("warm server stands down", "because", why)
	return c.server.Stop(ctx, server.StopFast)
}

// promote brings the server out of recovery at H, once, and makes sure that this
// is what happened. A server that was promoted there before is only verified.
func (c *Connector) promote(ctx context.Context, role local.Role) error {
	c.mu.Lock()
	was := c.saved
	c.mu.Unlock()
	epoch, at := role.Epoch, role.ApplyTo
	if was.Phase == phaseActive || role.State != local.StateActive {
		// Nobody says H to it again: it is what was written down.
		epoch, at = was.Epoch, was.At
	}
	c.window.shut(wal.LSN(at))
	if was.Phase != phaseActive {
		err := c.save(func(s *saved) { s.Phase, s.Epoch, s.At = phasePromoting, epoch, at })
		if err != nil {
			return err
		}
	}
	began := c.deps.Clock.Boot()
	p, err := c.server.Promote(ctx, wal.LSN(at))
	if errors.Is(err, tidegate.ErrDiverged) {
		return errors.Join(err, c.standDown(ctx, err.Error()))
	}
	if err != nil {
		return err
	}
	line, err := c.verify(was.Lineage, p, wal.LSN(at))
	if err != nil {
		return errors.Join(err, c.standDown(ctx, err.Error()))
	}
	if err := c.save(func(s *saved) { s.Phase, s.Lineage = phaseActive, line }); err != nil {
		return err
	}
	c.mu.Lock()
	c.verified = true
	c.mu.Unlock()
	c.look(ctx)
	ring(c.kick)
	c.deps.Log.Info("warm server is active", "epoch", uint64(epoch), "position", at.String(), "timeline", uint32(p.Timeline),
		"promoted_in", p.Took, "took", time.Duration(c.deps.Clock.Boot()-began))
	return nil
}

// verify compares the history that the server has made with the one that it was
// to make: the log's, forked at H. That the fork is H's was checked by the
// promotion itself, which knows of padding: behind a record that ends its segment
// early the fork is at the segment's end.
func (c *Connector) verify(was tidegate.Lineage, p server.Promotion, at wal.LSN) (tidegate.Lineage, error) {
	before, err := wal.ParseLineage(was)
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	system := c.control.System
	c.mu.Unlock()
	made, err := wal.NewLineage(system, p.Timeline, p.History)
	if err != nil {
		return "", err
	}
	if parting, never, err := made.Parting(before); err != nil || !never && parting < at {
		return "", &tidegate.Error{
			Op: "verify promotion", Subject: c.server.DataDir(), Class: tidegate.Permanent,
			Err: errors.Join(err, fmt.Errorf("it made %s of %s, to be forked at %s: %w", made, before, at, tidegate.ErrDiverged)),
		}
	}
	return made.Text(), nil
}

// base returns the newest base of a generation, of any when it is 0, that belongs
// to the log of a lineage. One that was taken of a history which the stream then
// went on without reaches beyond the place where they part: it would be brought to
// no consistent state by this log, and to a wrong one by more of it. The empty
// lineage is not compared.
func (c *Connector) base(of tidegate.Generation, line tidegate.Lineage) (Bases, snapshot.Listed, error) {
	bases, err := c.deps.Bases()
	if err != nil {
		return nil, snapshot.Listed{}, err
	}
	list := bases.Bases()
	for i := len(list) - 1; i >= 0; i-- {
		if (of == 0 || list[i].Generation == of) && belongs(list[i], line) {
			return bases, list[i], nil
		}
	}
	return nil, snapshot.Listed{}, &tidegate.Error{Op: "find base", Class: tidegate.Transient, Err: tidegate.ErrNotFound}
}

// line is the lineage of the log that a base must belong to; empty while it is not
// known: a session that offers something is told of what follows that, which says
// nothing of another generation.
func (c *Connector) line(role local.Role) tidegate.Lineage {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.bare:
		return role.Lineage
	case c.saved.Generation == role.Generation:
		return c.saved.Lineage
	}
	return ""
}

// belongs reports whether the history that a base was taken of is the log's as far
// as the base needs it.
func belongs(l snapshot.Listed, line tidegate.Lineage) bool {
	if line == "" {
		return true
	}
	log, err := wal.ParseLineage(line)
	if err != nil {
		return false
	}
	own, err := wal.ParseLineage(l.Lineage)
	return err == nil && log.Extends(own, wal.LSN(l.End))
}

// restore makes the data directory out of a base. What is there already is moved
// aside; what was restored in part before is the server's to sweep.
func (c *Connector) restore(ctx context.Context, role local.Role) error {
	_, there, err := c.server.Restored()
	if err != nil {
		return err
	}
	c.mu.Lock()
	was := c.saved
	c.mu.Unlock()
	if there && was.Phase == phaseRestoring {
		return c.restored() // it has its name: all that was left was to say so
	}
	bases, l, err := c.base(role.Generation, c.line(role))
	if err != nil {
		return err
	}
	r, err := bases.Reader(l)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := wal.ParseLineage(l.Lineage); err != nil {
		return fmt.Errorf("base %s: %w", l.Name, err)
	}
	if err := c.sameRelease(ctx, l.Attrs[AttrRelease]); err != nil {
		return err
	}
	if there {
		if err := c.moveAside(ctx, was, role.Epoch, l.Generation); err != nil {
			return err
		}
	}
	c.window.shut(0)
	c.note(func() { c.gap = false })
	err = c.save(func(s *saved) {
		*s = saved{
			Version: savedVersion, Stream: l.Stream, Phase: phaseRestoring, Generation: l.Generation,
			Base: l.Name.String(), Lineage: l.Lineage, Release: l.Attrs[AttrRelease], Tail: s.Tail,
		}
	})
	if err != nil {
		return err
	}
	began := c.deps.Clock.Boot()
	if err := c.fill(ctx, r); err != nil {
		return fmt.Errorf("restore base %s: %w", l.Name, err)
	}
	c.deps.Log.Info("base restored", "generation", uint32(l.Generation), "bytes", l.Bytes, "files", l.Files,
		"took", time.Duration(c.deps.Clock.Boot()-began))
	return c.restored()
}

// restored says that the data directory is whole.
func (c *Connector) restored() error {
	if err := c.save(func(s *saved) { s.Phase = phaseFollowing }); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.learn()
}

// Attributes of a base: what SHOW answered on the server it was taken from.
const (
	// AttrRelease is its server_version.
	AttrRelease = "server_version"
	// AttrSetting is the beginning of "setting.<name>", one for each setting that is
	// not its release's default.
	AttrSetting = "setting."
)

// settingsOf picks the settings out of a base's attributes.
func settingsOf(attrs map[string]string) map[string]string {
	set := map[string]string{}
	for name, value := range attrs {
		if name, is := strings.CutPrefix(name, AttrSetting); is {
			set[name] = value
		}
	}
	return set
}

// fill copies a base's files.
func (c *Connector) fill(ctx context.Context, r *snapshot.Reader) error {
	w, err := c.server.Restore(ctx, settingsOf(r.Info().Attrs))
	if err != nil {
		return err
	}
	for i, f := range r.Files() {
		if err = copyOne(ctx, w, r, i, f); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", f.Path, err), w.Abort())
		}
	}
	if err := w.Finish(ctx); err != nil {
		return errors.Join(err, w.Abort())
	}
	return nil
}

func copyOne(ctx context.Context, w snapshot.Writer, r *snapshot.Reader, i int, f snapshot.File) error {
	if f.Kind != snapshot.KindFile {
		return w.Add(f)
	}
	to, err := w.Create(ctx, f)
	if err != nil {
		return err
	}
	return errors.Join(r.Copy(ctx, i, to), to.Close())
}

// moveAside gets a data directory out of the way that cannot follow any more, for
// the base of a generation. What it was is written beside it when it has moved: a
// process that ends in between leaves a data directory without a summary.
func (c *Connector) moveAside(ctx context.Context, was saved, e tidegate.Epoch, g tidegate.Generation) error {
	if was.Phase == phaseNone || c.cfg.adopts() {
		return &tidegate.Error{
			Op: "restore base", Subject: c.server.DataDir(), Class: tidegate.Permanent,
			Err:  fmt.Errorf("a data directory is there that was not restored here: %w", tidegate.ErrConflict),
			Hint: "move it away: nothing of it is touched",
		}
	}
	if err := c.server.Stop(ctx, server.StopFast); err != nil {
		return err
	}
	from := filepath.Dir(c.server.DataDir()) // with its tablespaces
	dir := filepath.Join(c.cfg.Server.Home, quarantine.AsideName)
	if err := durable.MkdirAll(c.deps.FS, dir); err != nil {
		return err
	}
	now := c.deps.Clock.Wall().UTC()
	to := filepath.Join(dir, fmt.Sprintf("generation-%d-%s", was.Generation, now.Format("20060102T150405.000000")))
	if err := c.deps.FS.Rename(from, to); err != nil {
		return fmt.Errorf("move %s aside: %w", from, err)
	}
	c.deps.Log.Warn("data directory moved aside", "from", from, "to", to)
	about := c.about(was, e)
	about.Kind, about.Reason, about.Created = quarantine.KindDataAside, "replaced", now
	about.Note = fmt.Sprintf("was %s; a base of generation %d is restored in its place", was.Phase, g)
	if was.Why != "" {
		about.Note += ": " + was.Why
	}
	about.Look = []string{"pg_controldata " + quarantine.Here + "/" + filepath.Base(c.server.DataDir())}
	return errors.Join(c.server.Forget(to), c.deps.FS.SyncDir(c.cfg.Server.Home), c.deps.FS.SyncDir(dir), quarantine.Write(c.deps.FS, to, about))
}
