package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores"
)

// Target is a directory to restore into.
type Target struct {
	FS    vfs.FS
	Clock clock.Clock
	Dir   string // absolute
}

// Check refuses a directory that a plan cannot be restored into; nothing is written.
// resumes is true when it holds an unfinished attempt at the same, which Run goes on
// with: then the plan ends where that one's did.
func (p *Plan) Check(ctx context.Context, t Target) (resumes bool, err error) {
	had, err := checkDir(t.FS, t.Dir, p.attempt(t))
	if err != nil {
		return false, err
	}
	if had == nil {
		return false, checkRoom(t.FS, t.Dir, p.Bytes)
	}
	if had.End != p.End.Pos() {
		end, err := p.Stream.AtSeq(ctx, had.End.Seq)
		if err == nil && end.Pos() != had.End {
			err = fmt.Errorf("the archive has %s where the attempt was to end at %s: %w", end.Pos(), had.End, tidegate.ErrDiverged)
		}
		if err != nil {
			return false, fmt.Errorf("go on with the restore in %s: %w", t.Dir, err)
		}
		p.End = end
		if err := p.measure(); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (p *Plan) attempt(t Target) attempt {
	a := attempt{Version: 1, Stream: p.Stream.Info.Stream, To: p.To.String(), Begin: p.Begin.Pos(), End: p.End.Pos(), Started: t.Clock.Wall().UTC()}
	if p.Base != nil {
		a.Base = p.Base.Name.String()
	}
	return a
}

// Meter tells how far a restore has come. The zero value is ready.
type Meter struct {
	total, done, kept atomic.Int64
}

// Progress is how far a restore has come, in bytes of files and of log.
type Progress struct {
	Done  int64 // written, or found
	Kept  int64 // of those, found from an earlier attempt
	Total int64 // 0 is not known yet
}

// Progress reads the meter.
func (m *Meter) Progress() Progress {
	return Progress{Done: m.done.Load(), Kept: m.kept.Load(), Total: m.total.Load()}
}

// Result is what came of a restore.
type Result struct {
	stores.Restored
	Resumed bool
	Place   archive.Place // the last batch that was looked into
	Took    time.Duration
	Files   time.Duration // of Took: the base
	Log     time.Duration // of Took: the log behind it
	Bytes   Progress
	// Unproven, of a restore to a time: the log ended without a record later than that,
	// so what was committed between Newest and the target may be missing.
	Unproven bool
}

// Run restores. Check has been asked. After an error the directory holds what was
// done, and the next Run of the same plan goes on with it.
func (p *Plan) Run(ctx context.Context, t Target, store stores.Restorer, m *Meter) (out Result, err error) {
	began := t.Clock.Boot()
	if err := durable.MkdirAll(t.FS, t.Dir); err != nil {
		return out, err
	}
	lock, err := t.FS.Lock(filepath.Join(t.Dir, lockFile))
	if err != nil {
		return out, &tidegate.Error{Op: "restore into", Subject: t.Dir, Class: tidegate.ClassOf(err), Err: err, Hint: "another restore is at work there"}
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	had, err := checkDir(t.FS, t.Dir, p.attempt(t))
	if err != nil {
		return out, err
	}
	a := p.attempt(t)
	if had != nil {
		a = *had
		out.Resumed = true
	}
	a.Attempts++
	a.Archive = p.Stream.String()
	if err := a.write(t.FS, t.Dir); err != nil {
		return out, err
	}
	m.total.Store(p.bytesTotal)
	known := func(r stores.Restored) error {
		a.Ending, a.Unproven = &r, out.Unproven
		return a.write(t.FS, t.Dir)
	}
	err = p.restore(ctx, t.Clock, store, m, known, &out)
	if had != nil && had.Ending != nil && errors.Is(err, tidegate.ErrConflict) {
		_, gone := t.FS.Stat(had.Ending.Path)
		if err = errors.Join(err, gone); gone == nil {
			out.Restored, out.Place, out.Unproven, err = *had.Ending, p.End, had.Unproven, nil // its name is all that was done since
		}
	}
	if err != nil {
		return out, errors.Join(err, store.Abort())
	}
	out.Took, out.Bytes = time.Duration(t.Clock.Boot()-began), m.Progress()
	return out, p.leave(t, a, out)
}

func (p *Plan) restore(ctx context.Context, clk clock.Clock, store stores.Restorer, m *Meter, known func(stores.Restored) error, out *Result) (err error) {
	if err := store.Begin(ctx, p.restoration()); err != nil {
		return err
	}
	began := clk.Boot()
	if p.Base != nil {
		if err := p.base(ctx, store, m); err != nil {
			return p.baseFailed(err)
		}
	}
	based := clk.Boot()
	from, err := store.Log(ctx)
	if err != nil {
		return err
	}
	var reached bool
	if out.Place, reached, err = p.log(ctx, from, store, m); err != nil {
		return fmt.Errorf("restore log: %w", err)
	}
	out.Files, out.Log = time.Duration(based-began), time.Duration(clk.Boot()-based)
	out.Unproven = p.Target.Time != 0 && !reached
	out.Restored, err = store.Finish(ctx, known)
	return err
}

func (p *Plan) baseFailed(err error) error {
	e := &tidegate.Error{Op: "restore base", Subject: fmt.Sprintf("%.12s", p.Base.Name), Class: tidegate.ClassOf(err), Err: err}
	if e.Class == tidegate.Corrupt {
		e.Hint = "`tidegate window` lists other bases; into another directory, --base begins with one of them, --base none with a journal's log"
	}
	return e
}

// base copies the base's files, several at a time: most of the time goes into waiting
// for the archive, the rest into hashing and writing.
func (p *Plan) base(ctx context.Context, store stores.Restorer, m *Meter) error {
	r, err := p.Base.Store.Reader(p.Base.Listed)
	if err != nil {
		return err
	}
	defer r.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4 + runtime.GOMAXPROCS(0))
	for i, f := range r.Files() {
		if ctx.Err() != nil {
			break
		}
		if f.Kind == snapshot.KindDir || f.Kind == snapshot.KindLink {
			if err := store.Add(f); err != nil {
				return errors.Join(err, g.Wait())
			}
			continue
		}
		g.Go(func() error {
			if err := p.file(ctx, store, r, i, m); err != nil {
				return fmt.Errorf("%s: %w", f.Path, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// file restores one file, unless an earlier attempt has.
func (p *Plan) file(ctx context.Context, store stores.Restorer, r *snapshot.Reader, i int, m *Meter) error {
	f := r.Files()[i]
	have, err := store.Have(f)
	if err != nil {
		return err
	}
	if have != nil {
		same, err := r.Same(ctx, i, have)
		if err = errors.Join(err, have.Close()); err != nil {
			return err
		}
		if same {
			m.done.Add(f.Size)
			m.kept.Add(f.Size)
			return store.Keep(f)
		}
	}
	to, err := store.Create(ctx, f)
	if err != nil {
		return err
	}
	if to == nil {
		m.done.Add(f.Size)
		return nil
	}
	return errors.Join(r.Copy(ctx, i, counted{to, m}), to.Close())
}

type counted struct {
	io.Writer
	m *Meter
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.m.done.Add(int64(n))
	return n, err
}

// log hands the batches over, from where the store wants them. reached says that the
// store has seen what lies behind the target.
func (p *Plan) log(ctx context.Context, from tidegate.Position, store stores.Restorer, m *Meter) (last archive.Place, reached bool, err error) {
	begin := p.Begin
	if from > begin.First {
		m.done.Add(int64(from - begin.First))
		m.kept.Add(max(0, int64(from)-int64(max(begin.First, p.From())))) // what lies before, the base has
		at, err := p.Stream.AtPosition(ctx, begin.Generation, from)
		if err != nil {
			return at, false, err
		}
		// Nothing tells the store of what stands at the same position before it, as
		// a new history does, but the batches from the one that ends there on.
		begin, err = p.Stream.AtSeq(ctx, p.earliest(ctx, at, from))
		if err != nil {
			return at, false, err
		}
	}
	var opener batch.Opener
	var buf []byte
	last = begin
	for b, err := range p.Stream.Batches(ctx, begin.Seq) {
		if p.Target.Time != 0 && last.Seq >= p.End.Seq && errors.Is(err, tidegate.ErrGap) {
			break // all that leads up to the target is there, and what would prove it is not
		}
		if err != nil {
			return last, false, err
		}
		if b.Generation != p.Begin.Generation || p.Target.Time == 0 && b.Seq > p.End.Seq {
			break
		}
		h, payload, err := opener.Open(buf, b.Sealed)
		if err != nil {
			return last, false, p.Stream.InSegment(b.Seq, err)
		}
		if h.Codec != batch.CodecNone {
			buf = payload[:0]
		}
		last = archive.PlaceOf(&h)
		done, err := store.Batch(ctx, &h, payload)
		if err != nil {
			return last, false, fmt.Errorf("batch %d: %w", uint64(h.Seq), err)
		}
		if h.Next > from {
			m.done.Add(int64(h.Next - max(from, h.First)))
		}
		if reached = done; done {
			break
		}
	}
	return last, reached, ctx.Err()
}

// earliest is the first batch that has anything at or behind a position, at being the
// last that begins there or before.
func (p *Plan) earliest(ctx context.Context, at archive.Place, from tidegate.Position) tidegate.Seq {
	seq := at.Seq
	for seq > p.Begin.Seq {
		before, err := p.Stream.AtSeq(ctx, seq-1)
		if err != nil || before.Generation != at.Generation || before.Next < from {
			break
		}
		seq--
	}
	return seq
}

// done is what a finished restore leaves in restored.json.
type done struct {
	attempt
	Position tidegate.Position `json:"position"`
	Place    archive.Place     `json:"place"`
	Path     string            `json:"path"`
	Took     time.Duration     `json:"took_ns"`
}

// leave replaces the attempt by an account of what was done.
func (p *Plan) leave(t Target, a attempt, out Result) error {
	text, err := json.MarshalIndent(done{a, out.Position, out.Place, out.Path, out.Took}, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(t.FS, filepath.Join(t.Dir, doneFile), append(text, '\n')); err != nil {
		return err
	}
	if err := t.FS.Remove(filepath.Join(t.Dir, attemptFile)); err != nil {
		return err
	}
	return t.FS.SyncDir(t.Dir)
}
