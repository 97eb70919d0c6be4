package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/base"
)

// Names in the directory that is restored into.
const (
	restoringDir = "restoring"
	journalDir   = "journal"
)

// Config is where a journal is restored to.
type Config struct {
	Dir string // absolute
	// SegmentBytes must be what the service gives to the library; 0 is its default.
	SegmentBytes int64
}

// Restorer implements [stores.Restorer].
type Restorer struct {
	fsys vfs.FS
	cfg  Config
	what stores.Restoration

	j     *journal.Journal
	from  journal.Beginning // of a base; the zero value: the log is everything
	next  tidegate.Position // where the next record belongs
	ended bool

	newest int64
}

var _ stores.Restorer = (*Restorer)(nil)

// New makes a restorer. It does no I/O.
func New(fsys vfs.FS, cfg Config) *Restorer { return &Restorer{fsys: fsys, cfg: cfg} }

// Begin implements [stores.Restorer].
func (r *Restorer) Begin(_ context.Context, what stores.Restoration) error {
	switch _, err := r.fsys.Stat(filepath.Join(r.cfg.Dir, journalDir)); {
	case err == nil:
		return r.failed(fmt.Errorf("there is a journal already: %w", tidegate.ErrConflict))
	case !errors.Is(err, tidegate.ErrNotFound):
		return r.failed(err)
	}
	r.what = what
	if what.Base == nil && what.From != 0 {
		return r.failed(fmt.Errorf("the log begins at %s: %w", what.From, tidegate.ErrGap))
	}
	if err := durable.MkdirAll(r.fsys, r.cfg.Dir); err != nil {
		return r.failed(err)
	}
	if what.Base == nil {
		return nil // the log's first batch says which journal it is
	}
	id, err := journal.LineageID(what.Base.Lineage)
	if err == nil {
		err = r.open(id)
	}
	if err != nil {
		return r.failed(err)
	}
	return nil
}

func (r *Restorer) failed(err error) error {
	return &tidegate.Error{Op: "restore journal into", Subject: r.cfg.Dir, Class: tidegate.ClassOf(err), Err: err}
}

// beginning is the base, with the state's file.
func (r *Restorer) beginning(f snapshot.File) (b journal.Beginning, is bool, err error) {
	if r.what.Base == nil || !base.IsState(f) {
		return b, false, nil
	}
	s, _, err := base.Parse(r.what.Base.Base, []snapshot.File{f})
	return journal.Beginning{Position: s.Position, Records: s.Records, Digest: s.Digest, Lineage: s.Lineage, Bytes: s.Bytes}, true, err
}

// Have implements [stores.Restorer].
func (r *Restorer) Have(f snapshot.File) (io.ReadCloser, error) {
	b, is, err := r.beginning(f)
	if err != nil || !is {
		return nil, err
	}
	have, err := r.j.OpenState(b)
	switch {
	case err == nil:
		return have, nil
	case errors.Is(err, tidegate.ErrNotFound), tidegate.ClassOf(err) == tidegate.Corrupt:
		return nil, nil // it is written anew
	}
	return nil, r.failed(err)
}

// Keep implements [stores.Restorer].
func (r *Restorer) Keep(f snapshot.File) (err error) {
	r.from, _, err = r.beginning(f)
	return err
}

// Create implements [stores.Restorer].
func (r *Restorer) Create(_ context.Context, f snapshot.File) (io.WriteCloser, error) {
	b, is, err := r.beginning(f)
	if err != nil || !is {
		return nil, err
	}
	w, err := r.j.CreateState(b)
	if err != nil {
		return nil, r.failed(err)
	}
	r.from = b
	return w, nil
}

// Add implements [stores.Restorer].
func (r *Restorer) Add(snapshot.File) error { return nil }

// Log implements [stores.Restorer].
func (r *Restorer) Log(ctx context.Context) (tidegate.Position, error) {
	dir := filepath.Join(r.cfg.Dir, restoringDir)
	if r.what.Base != nil {
		err := r.j.BeginAt(ctx, r.what.From)
		if err == nil && r.from.Position != r.what.From {
			err = &tidegate.CorruptError{Path: "manifest", Offset: -1, What: "base of a journal without a state"}
		}
		if err != nil {
			return 0, r.failed(err)
		}
		r.next = r.j.End()
		return r.next, nil
	}
	switch _, err := journal.ReadLineage(r.fsys, dir); {
	case errors.Is(err, tidegate.ErrNotFound):
		return 0, nil // the log's first batch says which journal it is
	case err != nil:
		return 0, r.failed(err)
	}
	if err := r.open(tidegate.ID{}); err != nil {
		return 0, r.failed(err)
	}
	return r.next, nil
}

// open opens the journal that is being restored, or makes it.
func (r *Restorer) open(id tidegate.ID) error {
	j, err := journal.OpenFS(r.fsys, filepath.Join(r.cfg.Dir, restoringDir), r.config(id))
	if err != nil {
		return err
	}
	r.j, r.next = j, j.End()
	return nil
}

func (r *Restorer) config(id tidegate.ID) journal.Config {
	c := journal.Config{Service: r.what.Service, Stream: r.what.Stream, ID: id, SegmentBytes: r.cfg.SegmentBytes}.SetDefaults()
	// The limit is of what is appended here, which is nothing: only what was written is.
	c.RecordBytesMax = int(min(int64(c.RecordBytesMax), c.SegmentBytes-journal.HeaderSize))
	return c
}

// Batch implements [stores.Restorer].
func (r *Restorer) Batch(ctx context.Context, h *batch.Header, payload []byte) (done bool, err error) {
	switch h.Kind {
	case batch.KindData:
		return r.data(ctx, h, payload)
	case batch.KindLineage:
		err = r.lineage(payload)
	case batch.KindGap:
		err = fmt.Errorf("log from %s to %s is lost: %w", h.First, h.Next, tidegate.ErrGap)
	case batch.KindHeartbeat, batch.KindBarrier, batch.KindHandover:
	}
	if err != nil {
		return false, r.failed(err)
	}
	return r.ends(h.First), nil
}

// ends reports whether nothing at or beyond p is wanted.
func (r *Restorer) ends(p tidegate.Position) bool {
	return r.what.Target.Position != 0 && p >= r.what.Target.Position
}

func (r *Restorer) lineage(payload []byte) error {
	l, err := batch.ParseLineage(payload)
	if err != nil {
		return err
	}
	id, err := journal.LineageID(l.Lineage)
	if err != nil {
		return err
	}
	if r.j == nil {
		return r.open(id)
	}
	if have, err := journal.LineageID(r.j.Lineage()); err != nil || have != id {
		return errors.Join(err, fmt.Errorf("the log goes on as journal %s, and was %s: %w", id, have, tidegate.ErrDiverged))
	}
	return nil
}

// errEnough ends a scan at the first record that is not wanted.
var errEnough = errors.New("enough")

func (r *Restorer) data(ctx context.Context, h *batch.Header, payload []byte) (bool, error) {
	if r.j == nil {
		return false, r.failed(errors.New("the log does not say which journal it is of"))
	}
	first, t := max(h.First, r.from.Position), r.what.Target
	if h.Next <= first {
		return r.ends(h.Next), nil // the base has it
	}
	end, enough := first, false
	err := journal.Scan(payload, h.First, func(rec journal.Record) error {
		at := rec.Time.UnixNano()
		if rec.Next <= first {
			return nil
		}
		if rec.First < first {
			return fmt.Errorf("the base ends at %s, in the middle of a record: %w", first, tidegate.ErrDiverged)
		}
		if t.Position != 0 && rec.Next > t.Position || t.Time != 0 && at > t.Time {
			enough = true
			return errEnough
		}
		end, r.newest = rec.Next, max(r.newest, at)
		return nil
	})
	if err != nil && !enough {
		return false, r.failed(err)
	}
	if end > first {
		made, err := r.j.AppendRaw(ctx, first, payload[first-h.First:end-h.First])
		if err != nil {
			return false, r.failed(err)
		}
		r.next = made.Next
	}
	return enough || r.ends(h.Next), nil
}

// Finish implements [stores.Restorer].
func (r *Restorer) Finish(ctx context.Context, known func(stores.Restored) error) (stores.Restored, error) {
	if r.j == nil {
		return stores.Restored{}, r.failed(fmt.Errorf("nothing of the log lies before the target: %w", tidegate.ErrNotFound))
	}
	out, err := r.finish(ctx, known)
	if err != nil {
		return out, r.failed(err)
	}
	r.ended = true
	return out, nil
}

func (r *Restorer) finish(ctx context.Context, known func(stores.Restored) error) (stores.Restored, error) {
	from, to := filepath.Join(r.cfg.Dir, restoringDir), filepath.Join(r.cfg.Dir, journalDir)
	err := r.j.Sync(ctx)
	lineage := r.j.Lineage()
	if err = errors.Join(err, r.close()); err != nil {
		return stores.Restored{}, err
	}
	// It is opened as the service will: a journal that cannot be has no name.
	j, err := journal.OpenFS(r.fsys, from, r.config(tidegate.ID{}))
	if err != nil {
		return stores.Restored{}, err
	}
	if j.First() != r.from.Position || j.End() != r.next || j.Lineage() != lineage || j.Recovery() != (journal.Recovery{}) {
		err = &tidegate.CorruptError{Path: from, Offset: -1, What: fmt.Sprintf("opens as %s, of [%s, %s); wrote %s of [%s, %s)", j.Lineage(), j.First(), j.End(), lineage, r.from.Position, r.next)}
	}
	records := j.Records() - r.from.Records
	if err = errors.Join(err, j.Close()); err != nil {
		return stores.Restored{}, err
	}
	out := stores.Restored{
		Position: r.next, Records: records, Newest: r.newest, Path: to,
		Next: "move " + to + " to where the service keeps its journal, as its user, and start the service",
	}
	if err := known(out); err != nil {
		return out, err
	}
	if err := r.fsys.Rename(from, to); err != nil {
		return out, err
	}
	return out, r.fsys.SyncDir(r.cfg.Dir)
}

func (r *Restorer) close() error {
	if r.j == nil {
		return nil
	}
	j := r.j
	r.j = nil
	return j.Close()
}

// Abort implements [stores.Restorer].
func (r *Restorer) Abort() error {
	if r.ended {
		return nil
	}
	return r.close()
}
