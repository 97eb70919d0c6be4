package server

import (
	"context"
	"io"

	"github.com/tidegate/tidegate/snapshot"
)

// Restore takes a base's files; it is a [snapshot.Writer]. Exactly one of Finish
// and Abort ends it.
type Restore struct{ server *Server }

var _ snapshot.Writer = (*Restore)(nil)

// Restore begins to restore a base into a home that has no data directory; what
// an earlier restore left unfinished is swept first. The server must not run.
//
// Paths are as in a data directory; files of a tablespace are under
// pg_tblspc/<oid>/ and come to lie in home/tablespaces/<oid>. A tablespace_map is
// made anew. Log in pg_wal, signal files and what else belongs to the server that
// the base is of is left out.
func (s *Server) Restore(ctx context.Context) (*Restore, error) { panic("not yet") }

// Create implements [snapshot.Writer].
func (r *Restore) Create(ctx context.Context, f snapshot.File) (io.WriteCloser, error) {
	panic("not yet")
}

// Add implements [snapshot.Writer].
func (r *Restore) Add(f snapshot.File) error { panic("not yet") }

// Finish checks that the base is whole, writes its configuration, makes it all
// durable and gives it its name. The server may then be started to follow.
func (r *Restore) Finish(ctx context.Context) error { panic("not yet") }

// Abort gives up; what was written is swept by the next restore.
func (r *Restore) Abort() error { panic("not yet") }
