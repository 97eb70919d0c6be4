package server

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Follow is Finish for a server that is started to follow what is written here: it
// replays the log up to now, and looks for more in its own directory. Write goes on, on
// the history of now; [Recovery.Show] shows the server what came.
func (r *Recovery) Follow(ctx context.Context, known func() error) error {
	if err := r.end(ctx, known, standbySignal); err != nil {
		return err
	}
	r.r.root, r.follows = filepath.Join(r.r.server.cfg.Home, clusterDir), true
	if err := r.again(); err != nil {
		return r.r.failed(err)
	}
	return nil
}

// again takes up the segment that the log ends in: the server keeps what it was shown, and
// Write works on a copy, which replaces that as a whole. So it never sees half a record.
func (r *Recovery) again() error {
	r.start = r.size.Start(r.at)
	if r.start == r.at {
		return nil
	}
	fsys := r.r.server.fsys
	shown := filepath.Join(r.walDir(), r.size.FileName(r.line.TimelineAt(r.at-1), r.start))
	path := filepath.Join(r.walDir(), r.size.FileName(r.line.First, r.start)+laying)
	f, err := fsys.Create(path)
	if err != nil {
		return err
	}
	err = r.r.server.own(path)
	if err == nil {
		err = pushFile(fsys, shown, 0, r.size.Offset(r.at), copyTo(f))
	}
	if err == nil {
		err = f.Truncate(int64(r.size))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.segment = f
	return nil
}

// copyTo writes what it is handed to a file, from its beginning on.
func copyTo(f vfs.File) func(b []byte) (bool, error) {
	at := int64(0)
	return func(b []byte) (bool, error) {
		n, err := f.WriteAt(b, at)
		at += int64(n)
		return false, err
	}
}

// Show makes durable what was written since Follow, and shows the server all of it.
// Nothing is written after it.
func (r *Recovery) Show() error {
	if !r.follows {
		return r.r.failed(tidegate.ErrStopped)
	}
	var err error
	if r.segment != nil {
		err = r.shutCurrent()
	}
	if err = errors.Join(err, r.r.syncs.Wait()); err == nil {
		err = r.r.server.fsys.SyncDir(r.walDir())
	}
	if err != nil {
		return r.r.failed(err)
	}
	return nil
}
