package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// AttrRedo is the attribute of a base that says from which LSN it is replayed.
const AttrRedo = "redo"

// Base takes a base of the warm server as it is now: BASE_BACKUP over its own
// socket, which the primary hears nothing of. Its redo is that of the newest of the
// primary's checkpoints that was replayed here; where there has been none since
// the newest base, the error wraps tidegate.ErrConflict, and nothing was read.
// Everything in it was committed: the server is given nothing else.
//
// The files that this node's settings are written to are taken from the newest
// base, not from the server: another node's must not come to run under them. A
// promotion does not wait for it; it fails then, as it does when the server stops.
// The rest is as in stores.Based.
func (c *Connector) Base(ctx context.Context, w snapshot.Writer, total func(bytes int64)) (snapshot.Base, error) {
	r, system, err := c.refreshable(ctx)
	if err != nil {
		return snapshot.Base{}, refreshFailed(err)
	}
	defer r.Close()
	conn, err := replication.Connect(ctx, replication.Config{
		Conn: c.server.Conninfo(), ApplicationName: c.cfg.Server.Name + "_base", System: system,
	})
	if err != nil {
		return snapshot.Base{}, err
	}
	defer func() { _ = conn.Close() }() // what it was for is said otherwise
	last := int64(-1)
	files := &refreshed{Writer: w, own: server.ConfigFiles()}
	b, err := conn.BaseBackup(ctx, replication.BackupOptions{
		Label: fmt.Sprintf("tidegate %s/%s, of a standby", c.cfg.Service, c.cfg.Stream),
		Progress: func(_, bytes int64) {
			if total != nil && bytes != last {
				last = bytes
				total(bytes)
			}
		},
	}, files)
	if err != nil {
		return snapshot.Base{}, err
	}
	if err := files.carry(ctx, r); err != nil {
		return snapshot.Base{}, err
	}
	_, lineage, err := conn.Lineage(ctx)
	if err != nil {
		return snapshot.Base{}, err
	}
	c.mu.Lock()
	size, expected := c.control.SegmentSize, c.saved.Lineage
	c.mu.Unlock()
	if b.StartTimeline != b.EndTimeline || lineage.Timeline() != b.EndTimeline || lineage.Text() != expected {
		return snapshot.Base{}, refreshFailed(&tidegate.Error{
			Op: "compare history", Class: tidegate.Transient, Err: fmt.Errorf("the server's is %s now, that of the log was %s", lineage.Text(), expected),
		})
	}
	base := snapshot.Base{
		Start: size.Start(b.Start).Position(), End: b.End.Position(), Lineage: lineage.Text(), Attrs: maps.Clone(r.Info().Attrs),
	}
	if base.Attrs == nil {
		base.Attrs = map[string]string{}
	}
	base.Attrs[AttrRelease], base.Attrs[AttrRedo] = conn.VersionText(), b.Start.String()
	return base, nil
}

func refreshFailed(err error) error {
	return fmt.Errorf("take base of the warm server: %w", err)
}

// refreshable makes sure that the server follows, and that a base of it would be
// newer than the newest there is, which it opens.
func (c *Connector) refreshable(ctx context.Context) (newest *snapshot.Reader, system uint64, err error) {
	c.mu.Lock()
	follows := c.saved.Phase == phaseFollowing && c.answers && c.seen.Recovery
	of, system, phase, line := c.saved.Generation, c.control.System, c.saved.Phase, c.saved.Lineage
	c.mu.Unlock()
	if !follows {
		return nil, 0, &tidegate.Error{
			Op: "look at the warm server", Class: tidegate.Transient, Err: fmt.Errorf("it does not follow now (%s)", phase),
			Hint: "a base is taken of a server that follows and answers; `tidegate status` shows the stream's state on this node",
		}
	}
	bases, l, err := c.base(of, line)
	if err != nil {
		return nil, 0, err
	}
	// A restartpoint, so that the control file has the newest redo there can be.
	if err := c.server.Checkpoint(ctx); err != nil {
		return nil, 0, err
	}
	control, err := c.server.Control()
	if err != nil {
		return nil, 0, err
	}
	if start := control.SegmentSize.Start(control.Redo); start.Position() <= l.Start {
		return nil, 0, &tidegate.Error{
			Op: "look at the warm server", Class: tidegate.Transient,
			Err:  fmt.Errorf("its redo is %s, and the newest base begins at %s: %w", control.Redo, wal.LSN(l.Start), tidegate.ErrConflict),
			Hint: "a standby's redo follows the primary's checkpoints: there has been none since, or it was not replayed yet",
		}
	}
	newest, err = bases.Reader(l)
	return newest, system, err
}

// refreshed is a Writer that leaves out the files which hold this node's settings.
type refreshed struct {
	snapshot.Writer
	own map[string]bool
}

// Create implements [snapshot.Writer].
func (w *refreshed) Create(ctx context.Context, f snapshot.File) (io.WriteCloser, error) {
	if w.own[f.Path] {
		return discard{}, nil
	}
	return w.Writer.Create(ctx, f)
}

// carry adds those files as the base r has them.
func (w *refreshed) carry(ctx context.Context, r *snapshot.Reader) error {
	for i, f := range r.Files() {
		if f.Kind != snapshot.KindFile || !w.own[f.Path] {
			continue
		}
		to, err := w.Writer.Create(ctx, f)
		if err != nil {
			return err
		}
		if err := errors.Join(r.Copy(ctx, i, to), to.Close()); err != nil {
			return fmt.Errorf("carry %s over from the base before: %w", f.Path, err)
		}
	}
	return nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }
