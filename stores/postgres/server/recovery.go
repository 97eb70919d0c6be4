package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Recovery restores a base together with the log behind it: what comes of it needs
// nobody to follow. Its first start replays the log to its end and begins a timeline
// there. What one that was cut off has left is found again.
//
// Create, Have and Add may be called concurrently; the log is one goroutine's.
// Exactly one of Finish, Follow and Abort ends it.
type Recovery struct {
	r *Restore

	size    wal.SegmentSize
	line    wal.Lineage
	segment vfs.File // that at is in; nil when none was begun
	start   wal.LSN  // of the segment
	at      wal.LSN  // where the next byte of the log belongs
	laid    []string // segments and their directory entries, to be synced at the end
	follows bool     // the server has its data, and finds in it what is written on
}

// laying is the suffix of the segment that is being written.
const laying = ".laying"

// Recover begins a recovery into a home that has no data. primary is as in
// [Server.Restore].
func (s *Server) Recover(ctx context.Context, primary map[string]string) (*Recovery, error) {
	r, err := s.beginRestore(ctx, primary, true)
	if err != nil {
		return nil, err
	}
	return &Recovery{r: r}, nil
}

// Have opens what an earlier attempt has left of a file, when that has its size; nil
// when there is nothing. The caller compares it.
func (r *Recovery) Have(f snapshot.File) (vfs.File, error) {
	to, err := r.r.place(f.Path)
	if err != nil || to == "" {
		return nil, err
	}
	info, err := r.r.server.fsys.Stat(to)
	if errors.Is(err, tidegate.ErrNotFound) || err == nil && (info.Dir || info.Size != f.Size) {
		return nil, nil
	}
	if err != nil {
		return nil, r.r.failed(err)
	}
	file, err := r.r.server.fsys.Open(to)
	if err != nil {
		return nil, r.r.failed(err)
	}
	return file, nil
}

// Keep counts a file as whole that Have gave, and that the caller has compared and
// closed: it is synced, for nobody knows whether it was.
func (r *Recovery) Keep(f snapshot.File) error {
	to, err := r.r.place(f.Path)
	if err != nil {
		return r.r.failed(err)
	}
	if err := r.r.makeDir(filepath.Dir(to)); err != nil {
		return r.r.failed(err)
	}
	r.r.syncs.Go(func() error { return syncFile(r.r.server.fsys, to) })
	return nil
}

func syncFile(fsys vfs.FS, path string) error {
	f, err := fsys.OpenReadWrite(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Create begins a file in place of what was there; nil for one that has no place in
// a restored directory. The rest is as in [snapshot.Writer].
func (r *Recovery) Create(ctx context.Context, f snapshot.File) (io.WriteCloser, error) {
	to, err := r.r.place(f.Path)
	if err != nil {
		return nil, r.r.failed(err)
	}
	if to == "" {
		return nil, nil
	}
	if err := r.r.server.fsys.Remove(to); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return nil, r.r.failed(err)
	}
	return r.r.Create(ctx, f)
}

// Add puts a directory or a link into the base; see [Restore.Add].
func (r *Recovery) Add(f snapshot.File) error { return r.r.Add(f) }

// Control reads the control file of the base, which must have been restored.
func (r *Recovery) Control() (Control, error) {
	b, err := readFile(r.r.server.fsys, filepath.Join(r.r.root, dataDir, controlFile))
	if err == nil && b == nil {
		err = fmt.Errorf("base has no %s: %w", controlFile, tidegate.ErrNotFound)
	}
	if err != nil {
		return Control{}, r.r.failed(err)
	}
	return ParseControl(b)
}

// Log begins the log at from, where a segment starts, with the history that it has
// there. seen is shown what an earlier attempt has laid, in order, and returns where
// the good part ends, and whether there may be more; Log returns that place: the log
// is then to be written from there on, and line is the history up to it.
func (r *Recovery) Log(size wal.SegmentSize, from wal.LSN, line wal.Lineage, seen func(at wal.LSN, b []byte) (end wal.LSN, more bool)) (wal.LSN, wal.Lineage, error) {
	fail := func(err error) (wal.LSN, wal.Lineage, error) { return 0, wal.Lineage{}, r.r.failed(err) }
	if err := size.Validate(); err != nil || size.Start(from) != from {
		return fail(errors.Join(err, fmt.Errorf("log from %s: want a segment's start", from)))
	}
	r.size, r.line, r.at = size, line, from
	if err := r.r.makeDir(r.walDir()); err != nil {
		return fail(err)
	}
	text, err := readFile(r.r.server.fsys, r.historyPath())
	if err == nil && text != nil {
		r.line, err = wal.ParseLineage(tidegate.Lineage(text))
	}
	if err != nil {
		return fail(err)
	}
	names, err := r.r.server.fsys.List(r.walDir())
	if err != nil {
		return fail(err)
	}
	found := map[wal.LSN]string{}
	for _, name := range names {
		if _, lsn, err := size.ParseFileName(strings.TrimSuffix(name, laying)); err == nil {
			found[lsn] = filepath.Join(r.walDir(), name)
		}
	}
	for at, more := from, true; more && found[at] != ""; at += wal.LSN(size) {
		if more, err = r.reread(found[at], at, seen); err != nil {
			return fail(err)
		}
	}
	if err := r.settle(found); err != nil {
		return fail(err)
	}
	return r.at, r.line, nil
}

func (r *Recovery) walDir() string { return filepath.Join(r.r.root, dataDir, walDir) }

func (r *Recovery) historyPath() string { return filepath.Join(r.r.root, "lineage") }

// reread shows a segment to seen.
func (r *Recovery) reread(path string, at wal.LSN, seen func(at wal.LSN, b []byte) (wal.LSN, bool)) (more bool, err error) {
	err = pushFile(r.r.server.fsys, path, 0, int64(r.size), func(b []byte) (bool, error) {
		var end wal.LSN
		end, more = seen(at, b)
		at += wal.LSN(len(b))
		r.at = max(r.at, end)
		return !more, nil
	})
	return more && r.size.Start(at) == at, err // one that was cut off has not its length
}

// settle keeps the segments before at, goes on in the one that at is in, and removes
// those behind it.
func (r *Recovery) settle(found map[wal.LSN]string) error {
	fsys := r.r.server.fsys
	for start, path := range found {
		begun := strings.HasSuffix(path, laying)
		switch {
		case start+wal.LSN(r.size) <= r.at && !begun:
			r.laid = append(r.laid, path)
		case start >= r.at:
			if err := fsys.Remove(path); err != nil {
				return err
			}
		default:
			if err := r.reopen(start, path, begun); err != nil {
				return err
			}
		}
	}
	return nil
}

// reopen goes on in a segment that was begun, with zeros behind what is good.
func (r *Recovery) reopen(start wal.LSN, path string, begun bool) error {
	if !begun {
		if err := r.r.server.fsys.Rename(path, path+laying); err != nil {
			return err
		}
		path += laying
	}
	f, err := r.r.server.fsys.OpenReadWrite(path)
	if err != nil {
		return err
	}
	end := int64(min(r.at-start, wal.LSN(r.size)))
	if err := errors.Join(f.Truncate(end), f.Truncate(int64(r.size))); err != nil {
		return errors.Join(err, f.Close())
	}
	if end == int64(r.size) { // all that it lacked was its name
		if err := r.shut(f, start); err != nil {
			return err
		}
		return nil
	}
	r.segment, r.start = f, start
	return nil
}

// History says how the log goes on from where it ends now. It is written down before
// the first byte of that is.
func (r *Recovery) History(line wal.Lineage) error {
	if err := durable.WriteFile(r.r.server.fsys, r.historyPath(), []byte(line.Text())); err != nil {
		return r.r.failed(err)
	}
	r.line = line
	return nil
}

// Write lays the log's next bytes.
func (r *Recovery) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if r.segment == nil {
			if err := r.begin(); err != nil {
				return n, r.r.failed(err)
			}
		}
		part := b[:min(len(b), int(r.start+wal.LSN(r.size)-r.at))]
		if _, err := r.segment.WriteAt(part, r.size.Offset(r.at)); err != nil {
			return n, r.r.failed(err)
		}
		r.at += wal.LSN(len(part))
		n, b = n+len(part), b[len(part):]
		if r.at == r.start+wal.LSN(r.size) {
			if err := r.shutCurrent(); err != nil {
				return n, r.r.failed(err)
			}
		}
	}
	return n, nil
}

// begin makes the segment that at is in, with zeros in all of it: the end of the log
// is told by them.
func (r *Recovery) begin() error {
	r.start = r.size.Start(r.at)
	path := filepath.Join(r.walDir(), r.size.FileName(r.line.First, r.start)+laying)
	f, err := r.r.server.fsys.Create(path)
	if err != nil {
		return err
	}
	r.segment = f
	vfs.Reserve(f, 0, int64(r.size))
	return errors.Join(f.Truncate(int64(r.size)), r.r.server.own(path))
}

// shut gives the segment its name: that of the timeline which its last byte is of. A
// server looks for the newest timeline's file first, and this one begins with the
// old one's bytes, as it must.
func (r *Recovery) shut(f vfs.File, start wal.LSN) error {
	from := filepath.Join(r.walDir(), filepath.Base(f.Name())) // the directory has another name once the server follows
	last := min(start+wal.LSN(r.size), r.at) - 1
	to := filepath.Join(r.walDir(), r.size.FileName(r.line.TimelineAt(last), start))
	if err := r.r.server.fsys.Rename(from, to); err != nil {
		return errors.Join(err, f.Close())
	}
	r.r.syncs.Go(func() error { return errors.Join(f.Sync(), f.Close()) })
	return nil
}

func (r *Recovery) shutCurrent() error {
	f := r.segment
	r.segment = nil
	return r.shut(f, r.start)
}

// Finish makes it all durable and gives it its name; known is called just before that.
// The log ends where the last Write did. After an error, Abort is still due.
func (r *Recovery) Finish(ctx context.Context, known func() error) error {
	return r.end(ctx, known, recoverySignal, setting{"primary_conninfo", ""},
		// Recovery that follows nobody must be given a command; all of its log is here.
		setting{"restore_command", "false"},
		setting{"recovery_target_timeline", r.line.TimelineAt(r.at - 1).String()}, // a log that ends exactly at a fork is of the timeline before
	)
}

func (r *Recovery) end(ctx context.Context, known func() error, signal string, more ...setting) error {
	if r.r.ended {
		return r.r.failed(tidegate.ErrStopped)
	}
	err := r.finish(ctx, known, signal, more)
	if err != nil {
		return r.r.failed(err)
	}
	r.r.ended = true
	r.r.server.give()
	return nil
}

func (r *Recovery) finish(ctx context.Context, known func() error, signal string, more []setting) error {
	if r.segment != nil {
		if err := r.shutCurrent(); err != nil {
			return err
		}
	}
	for _, path := range r.laid {
		r.r.syncs.Go(func() error { return syncFile(r.r.server.fsys, path) })
	}
	if err := r.histories(); err != nil {
		return err
	}
	if err := r.r.syncs.Wait(); err != nil {
		return err
	}
	err := r.r.complete(signal, more...)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = known()
	}
	if err == nil {
		err = r.r.name()
	}
	if err == nil {
		err = durable.RemoveTree(r.r.server.fsys, filepath.Join(r.r.server.cfg.Home, clusterDir, filepath.Base(r.historyPath())))
	}
	return err
}

// histories writes the files of all timelines that are known, so that the one which
// the server begins takes a number that none of them has.
func (r *Recovery) histories() error {
	for _, f := range r.line.Forks {
		until, _ := r.line.Until(f.Timeline) // it is one of its own
		path := filepath.Join(r.walDir(), f.Timeline.HistoryFileName())
		if have, err := r.r.server.exists(path); err != nil || have {
			if err != nil {
				return err
			}
			continue
		}
		if err := r.r.server.replace(path, until.History().Format()); err != nil {
			return err
		}
	}
	return nil
}

// Abort gives up; the next recovery finds what was written. After Finish succeeded it
// does nothing.
func (r *Recovery) Abort() error {
	var err error
	if r.segment != nil {
		err = r.segment.Close()
		r.segment = nil
	}
	return errors.Join(err, r.r.Abort())
}

// Recovering reports whether there is data here whose recovery has not ended.
func (s *Server) Recovering() (bool, error) { return s.exists(s.inData(recoverySignal)) }

// Complete starts the server on what a [Recovery] has left, and waits until it has
// replayed all of its log, has begun its timeline and takes writes. The promotion it
// returns forks where the log ended. The server runs on; started again after it was
// cut off, recovery goes on where it was.
func (s *Server) Complete(ctx context.Context) (Promotion, error) {
	if err := s.take(ctx); err != nil {
		return Promotion{}, err
	}
	defer s.give()
	p, err := s.complete(ctx)
	if err != nil {
		return Promotion{}, s.failed("recover server in", err)
	}
	return p, nil
}

func (s *Server) complete(ctx context.Context) (Promotion, error) {
	running, err := s.Running()
	if err == nil && !running {
		err = s.makeHome()
		if err == nil {
			err = s.checkConfig(ctx)
		}
		if err == nil {
			err = s.launchIn(ctx)
		}
	}
	if err != nil {
		return Promotion{}, err
	}
	err = every(ctx, readyEvery, func() (bool, error) {
		st, err := s.State(ctx)
		if err == nil {
			return !st.Recovery, nil
		}
		if tidegate.ClassOf(err) != tidegate.Transient {
			return false, err
		}
		running, err := s.Running()
		if err == nil && !running {
			err = s.ended()
		}
		return false, err
	})
	if err != nil {
		return Promotion{}, err
	}
	return s.promotion(ctx)
}

// launchIn launches the server on the configuration that is there.
func (s *Server) launchIn(ctx context.Context) error {
	from, err := s.logEnd()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.launched, s.found = from, true
	s.mu.Unlock()
	c, err := s.launch(append([]string{s.tool("postgres")}, s.commandLine()...))
	if err != nil {
		return err
	}
	return s.placed(ctx, c)
}
