package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// syncsMax is how many files of a base are on their way to the disk at one time:
// a base has thousands of small ones, and each sync alone would wait for the disk.
const syncsMax = 16

// Restore takes a base's files; it is a [snapshot.Writer]. Exactly one of Finish
// and Abort ends it; until then nothing else that changes the server goes on. It
// is used by one goroutine.
type Restore struct {
	server  *Server
	primary map[string]string
	root    string         // home/restoring
	syncs   errgroup.Group // owned by the restore; ended by Finish and Abort
	ended   bool

	mu     sync.Mutex // a [Recovery] takes several files at a time
	spaces map[uint32]bool
	dirs   []string // all made, in order; parents first
	known  map[string]bool
}

var _ snapshot.Writer = (*Restore)(nil)

// Restore begins to restore a base into a home that has no data yet; what an
// earlier restore left unfinished is swept first. primary are the primary's
// settings that are not its release's defaults, as SHOW answers them; they are
// used for a base without configuration of its own and may be nil.
//
// Paths are as in a data directory; files of a tablespace are under
// pg_tblspc/<oid>/ and come to lie in home/cluster/tablespaces/<oid>. A
// tablespace_map is made anew. Log, slots, signals and whatever else belongs to
// the process that the base is of are left out.
func (s *Server) Restore(ctx context.Context, primary map[string]string) (*Restore, error) {
	return s.beginRestore(ctx, primary, false)
}

// beginRestore is Restore; with keep what an earlier one left is not swept.
func (s *Server) beginRestore(ctx context.Context, primary map[string]string, keep bool) (*Restore, error) {
	fail := func(err error) (*Restore, error) {
		return nil, &tidegate.Error{Op: "restore into", Subject: s.cfg.Home, Class: tidegate.ClassOf(err), Err: err}
	}
	if err := s.take(ctx); err != nil {
		return fail(err)
	}
	have, err := s.exists(filepath.Join(s.cfg.Home, clusterDir))
	if err == nil {
		err = s.ownData()
	}
	if err == nil && have {
		err = fmt.Errorf("there is a server's data already: %w", tidegate.ErrConflict)
	}
	r := &Restore{
		server: s, primary: primary, root: filepath.Join(s.cfg.Home, restoringDir),
		spaces: map[uint32]bool{}, known: map[string]bool{},
	}
	r.syncs.SetLimit(syncsMax)
	if err == nil {
		err = s.makeHome()
	}
	if err == nil && !keep {
		err = durable.RemoveTree(s.fsys, r.root)
	}
	if err == nil {
		err = durable.RemoveTree(s.fsys, s.rewinding("")) // of data that is no longer here
	}
	if err == nil {
		err = r.makeDir(filepath.Join(r.root, dataDir))
	}
	if err == nil {
		err = r.makeDir(filepath.Join(r.root, tablespaceDir))
	}
	if err != nil {
		s.give()
		return fail(err)
	}
	return r, nil
}

// makeDir makes a directory and its parents up to the root, for the account.
func (r *Restore) makeDir(dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.makeDirLocked(dir)
}

func (r *Restore) makeDirLocked(dir string) error {
	if r.known[dir] {
		return nil
	}
	if dir != r.root {
		if err := r.makeDirLocked(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	if err := r.server.fsys.MkdirAll(dir); err != nil {
		return err
	}
	r.known[dir] = true
	r.dirs = append(r.dirs, dir)
	return r.server.own(dir)
}

// emptied are directories whose contents belong to the process that the base is
// of (basebackup.c leaves them out too); history files are kept.
var emptied = []string{
	walDir, "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans",
}

// leftOut are files that would mislead the restored server.
var leftOut = map[string]bool{
	pidFile: true, "postmaster.opts": true, standbySignal: true, recoverySignal: true,
	"backup_manifest":       true, // it lists the configuration files that are about to change
	tablespaceMap:           true, // made anew
	autoConfigFile + ".tmp": true, "current_logfiles": true,
}

// skips reports whether the base's entry has no place in a restored directory.
func skips(name string) bool {
	if leftOut[name] {
		return true
	}
	for _, dir := range emptied {
		if rest, in := strings.CutPrefix(name, dir+"/"); in {
			history := dir == walDir && strings.HasSuffix(rest, ".history") && !strings.Contains(rest, "/")
			return !history
		}
	}
	return false
}

// place maps an entry's path to where it is restored; "" for what is left out.
func (r *Restore) place(name string) (string, error) {
	if name == "" || name != path.Clean(name) || !filepath.IsLocal(name) || strings.ContainsAny(name, "\x00\n\r") {
		return "", fmt.Errorf("path %q: want a clean one within the base", name)
	}
	rest, in := strings.CutPrefix(name, tablespaceLink+"/")
	if !in {
		if skips(name) {
			return "", nil
		}
		return filepath.Join(r.root, dataDir, name), nil
	}
	number, _, _ := strings.Cut(rest, "/")
	oid, err := strconv.ParseUint(number, 10, 32)
	if err != nil || oid == 0 {
		return "", fmt.Errorf("path %q: want the number of a tablespace", name)
	}
	r.mu.Lock()
	r.spaces[uint32(oid)] = true
	r.mu.Unlock()
	return filepath.Join(r.root, tablespaceDir, rest), nil
}

// Create implements [snapshot.Writer].
func (r *Restore) Create(_ context.Context, f snapshot.File) (io.WriteCloser, error) {
	to, err := r.place(f.Path)
	if err != nil {
		return nil, r.failed(err)
	}
	if to == "" {
		return discard{}, nil
	}
	if err := r.makeDir(filepath.Dir(to)); err != nil {
		return nil, r.failed(err)
	}
	file, err := r.server.fsys.Create(to)
	if err != nil {
		return nil, r.failed(err)
	}
	if err := r.server.own(to); err != nil {
		return nil, r.failed(errors.Join(err, file.Close()))
	}
	vfs.Reserve(file, 0, f.Size)
	return &restoring{restore: r, file: file, want: f.Size}, nil
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }

// flushBytes is after how much of a file the disk is told to begin: what is left for
// the sync at its end would otherwise be all of it, while nobody decompresses.
const flushBytes = 8 << 20

// restoring is a file on its way in.
type restoring struct {
	restore *Restore
	file    vfs.File
	want    int64
	written int64
	flushed int64
}

func (f *restoring) Write(b []byte) (int, error) {
	n, err := vfs.WriteAround(f.file, b, f.written)
	f.written += int64(n)
	if f.written-f.flushed >= flushBytes {
		vfs.Flush(f.file, f.flushed, f.written)
		f.flushed = f.written
	}
	return n, err
}

// Close hands the file to be synced; the outcome is Finish's.
func (f *restoring) Close() error {
	if f.written != f.want {
		return f.restore.failed(errors.Join(fmt.Errorf("%s: %d bytes: want %d", f.file.Name(), f.written, f.want), f.file.Close()))
	}
	f.restore.syncs.Go(func() error { return errors.Join(f.file.Sync(), f.file.Close()) })
	return nil
}

// Add implements [snapshot.Writer]. A link is a tablespace's or pg_wal's; its
// target is of another machine and is not used.
func (r *Restore) Add(f snapshot.File) error {
	to, err := r.place(f.Path)
	if err != nil {
		return r.failed(err)
	}
	isSpace := path.Dir(f.Path) == tablespaceLink
	switch {
	case to == "":
		return nil
	case f.Kind == snapshot.KindDir, f.Kind == snapshot.KindLink && (isSpace || f.Path == walDir):
		if err := r.makeDir(to); err != nil {
			return r.failed(err)
		}
		return nil
	}
	return r.failed(fmt.Errorf("%s: a link to %q: want links of tablespaces only", f.Path, f.Link))
}

func (r *Restore) failed(err error) error {
	hint := ""
	if errors.Is(err, tidegate.ErrFull) {
		hint = "make room in the home's file system and restore again"
	}
	return &tidegate.Error{Op: "restore into", Subject: r.server.cfg.Home, Class: tidegate.ClassOf(err), Hint: hint, Err: err}
}

// Finish checks that the base is whole, writes its configuration, makes it all
// durable and gives it its name. The server may be started to follow then. After
// an error, Abort is still due.
func (r *Restore) Finish(ctx context.Context) error {
	if r.ended {
		return r.failed(tidegate.ErrStopped)
	}
	err := r.syncs.Wait()
	if err == nil {
		err = r.complete(standbySignal)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = r.name()
	}
	if err != nil {
		return r.failed(err)
	}
	r.ended = true
	r.server.give()
	return nil
}

// complete checks for what every base has and adds what a follower needs, with more
// settings that win over its own, and the signal that says how it starts.
func (r *Restore) complete(signal string, more ...setting) error {
	s, data := r.server, filepath.Join(r.root, dataDir)
	for _, name := range []string{versionFile, backupLabel, controlFile} {
		switch have, err := s.exists(filepath.Join(data, name)); {
		case err != nil:
			return err
		case !have:
			// Without backup_label the server would begin to recover at a checkpoint
			// that may be newer than some of the files: it would start, and be wrong.
			return fmt.Errorf("base has no %s: %w", name, tidegate.ErrNotFound)
		}
	}
	for _, dir := range append([]string{walDir + "/archive_status", tablespaceLink}, emptied...) {
		if err := r.makeDir(filepath.Join(data, dir)); err != nil {
			return err
		}
	}
	if err := s.configure(data, Follow, r.primary); err != nil {
		return err
	}
	if len(more) > 0 {
		auto, err := readFile(s.fsys, filepath.Join(data, autoConfigFile))
		if err != nil {
			return err
		}
		if err := s.replace(filepath.Join(data, autoConfigFile), overlay(auto, more)); err != nil {
			return err
		}
	}
	if len(r.spaces) > 0 {
		// The server makes the links itself when it first starts from the base.
		var text bytes.Buffer
		for oid := range r.spaces {
			where := filepath.Join(s.cfg.Home, clusterDir, tablespaceDir, fmt.Sprint(oid))
			fmt.Fprintf(&text, "%d %s\n", oid, strings.ReplaceAll(where, `\`, `\\`))
		}
		if err := s.replace(filepath.Join(data, tablespaceMap), text.Bytes()); err != nil {
			return err
		}
	}
	return s.replace(filepath.Join(data, signal), nil)
}

// name makes the directories durable and the base the server's.
func (r *Restore) name() error {
	fsys, home := r.server.fsys, r.server.cfg.Home
	var syncs errgroup.Group
	syncs.SetLimit(syncsMax)
	for _, dir := range r.dirs {
		syncs.Go(func() error { return fsys.SyncDir(dir) })
	}
	if err := syncs.Wait(); err != nil {
		return err
	}
	if err := fsys.Rename(r.root, filepath.Join(home, clusterDir)); err != nil {
		return err
	}
	return fsys.SyncDir(home)
}

// Abort gives up; what was written is swept by the next restore. After Finish
// succeeded it does nothing.
func (r *Restore) Abort() error {
	if r.ended {
		return nil
	}
	r.ended = true
	_ = r.syncs.Wait() // the files are nobody's now
	r.server.give()
	return nil
}

// Aside moves the data out of the home, to a path on the same file system that
// is not taken, whose parent exists: to quarantine, as a rule. The server must
// not run. It reports whether there was any.
func (s *Server) Aside(ctx context.Context, to string) (bool, error) {
	fail := func(err error) (bool, error) {
		return false, &tidegate.Error{Op: "move aside", Subject: s.cfg.Home, Class: tidegate.ClassOf(err), Err: err}
	}
	if err := s.take(ctx); err != nil {
		return fail(err)
	}
	defer s.give()
	if err := s.ownData(); err != nil {
		return fail(err)
	}
	from := filepath.Join(s.cfg.Home, clusterDir)
	if have, err := s.exists(from); err != nil || !have {
		return false, err
	}
	if p, err := s.find(); err != nil {
		return fail(err)
	} else if p != nil {
		p.close()
		return fail(fmt.Errorf("the server runs: %w", tidegate.ErrConflict))
	}
	if have, err := s.exists(to); err != nil || have {
		return fail(errors.Join(err, fmt.Errorf("%s: is taken: %w", to, tidegate.ErrConflict)))
	}
	if err := s.fsys.Rename(from, to); err != nil {
		return fail(err)
	}
	err := errors.Join(s.fsys.SyncDir(filepath.Dir(to)), s.fsys.SyncDir(s.cfg.Home))
	if err == nil {
		// What a rewind left half done is aside now.
		err = durable.RemoveTree(s.fsys, s.rewinding(""))
	}
	return true, err
}
