package capture

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

var _ stores.Based = (*Capture)(nil)

// Attributes of a base.
const (
	attrRelease = "server_version" // as SHOW answers it
	attrSetting = "setting."       // and the setting's name: as SHOW answers it
	attrRedo    = "redo"           // LSN from which the base is replayed
)

// baseSettings are what a server made of the base has to be given: what a standby
// must have as large as its primary, and what the data was written under.
func baseSettings() []string {
	return append(replication.StandbySettings(), "shared_preload_libraries", "shared_buffers", "max_wal_size", "wal_log_hints", "track_commit_timestamp")
}

// Base implements [stores.Based]: BASE_BACKUP over a connection of its own. The
// log from the base's start on is kept by the slot, which is there before.
func (c *Capture) Base(ctx context.Context, w snapshot.Writer, total func(bytes int64)) (snapshot.Base, error) {
	p, err := c.await(ctx, func() bool { return c.place.known && c.link != nil && !c.renewing() })
	if err != nil {
		return snapshot.Base{}, err
	}
	server := c.cfg.server(c.cfg.Name + "_base")
	server.System = p.system
	conn, err := replication.Connect(ctx, server)
	if err != nil {
		return snapshot.Base{}, err
	}
	defer func() { _ = conn.Close() }() // what it was for is said otherwise
	base := snapshot.Base{Attrs: map[string]string{attrRelease: conn.VersionText()}}
	for _, name := range baseSettings() {
		if base.Attrs[attrSetting+name], err = conn.Show(ctx, name); err != nil {
			return snapshot.Base{}, err
		}
	}
	last := int64(-1)
	b, err := conn.BaseBackup(ctx, replication.BackupOptions{
		Label: fmt.Sprintf("tidegate %s/%s", c.cfg.Service, c.cfg.Stream),
		Progress: func(_, bytes int64) {
			if total != nil && bytes != last {
				last = bytes
				total(bytes)
			}
		},
	}, w)
	if err != nil {
		return snapshot.Base{}, err
	}
	_, after, err := conn.Lineage(ctx)
	if err != nil {
		return snapshot.Base{}, err
	}
	if b.StartTimeline != b.EndTimeline || after.Timeline() != b.EndTimeline {
		return snapshot.Base{}, &tidegate.Error{Op: "back up", Subject: conn.Target(), Class: tidegate.Transient, Err: errors.New("the server's timeline changed meanwhile")}
	}
	base.Start, base.End = p.segment.Start(b.Start).Position(), b.End.Position()
	base.Lineage = after.Text()
	base.Attrs[attrRedo] = b.Start.String()
	return base, c.covers(p, wal.LSN(base.Start))
}

// covers makes sure that the log from start on is what the slot keeps and the
// stream began before: a slot that was made anew may keep less.
func (c *Capture) covers(p place, start wal.LSN) error {
	if start >= p.begin {
		return nil
	}
	return &tidegate.Error{
		Op: "back up", Class: tidegate.Transient,
		Err: fmt.Errorf("the base begins at %s, and the slot keeps the log from %s on", start, p.begin),
	}
}
