package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Backup is a copy of a registry that lies in an archive.
type Backup struct {
	archive.Backup
	Bytes int64
}

// A backup is a scratch file in the gate's own directory before it is in the archive,
// because etcd gives it once, and a bucket may want it again. Each has a name of its
// own: an operator may take one while the gate is at it.
const (
	scratchPrefix = "registry-backup-"
	scratchSuffix = ".tmp"
	scratchAge    = time.Hour // after which nobody is at it any more
)

// ClockSlack is how far the clocks of two gates may differ: a backup may be of so
// much later than now, and no more.
const ClockSlack = 5 * time.Minute

// Sweep removes what killed gates have left in dir.
func Sweep(fsys vfs.FS, dir string, now time.Time) error {
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, scratchPrefix) || !strings.HasSuffix(name, scratchSuffix) {
			continue
		}
		path := filepath.Join(dir, name)
		info, err := fsys.Stat(path)
		if err == nil && now.Sub(info.ModTime) > scratchAge {
			err = remove(fsys, path)
		}
		if err != nil && !errors.Is(err, tidegate.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Take puts a copy of the registry of cluster into b. dir is the gate's own
// directory, which has room for it. One of the same revision, as of the same second,
// is there already: tidegate.ErrConflict.
func Take(ctx context.Context, store *registry.Store, cluster string, fsys vfs.FS, dir string, b bucket.Bucket, now time.Time) (out Backup, err error) {
	fail := func(err error) (Backup, error) {
		return Backup{}, &tidegate.Error{Op: "back up registry to", Subject: b.String(), Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
	}
	path := filepath.Join(dir, scratchPrefix+tidegate.NewID().String()+scratchSuffix)
	defer func() { err = errors.Join(err, remove(fsys, path)) }()
	saved, err := store.SaveTo(ctx, fsys, path)
	if err != nil {
		return fail(err)
	}
	err = bucket.Require(ctx, b, bucket.Features{IfAbsent: true})
	if err == nil {
		err = archive.Begin(ctx, b)
	}
	if err != nil {
		return fail(err)
	}
	f, err := fsys.Open(path)
	if err != nil {
		return fail(err)
	}
	out = Backup{archive.Backup{Cluster: cluster, Taken: now.UTC().Truncate(time.Second), Revision: saved.Revision}, saved.Bytes}
	_, err = b.Put(ctx, out.Name(), io.NewSectionReader(f, 0, saved.Bytes), bucket.PutOptions{IfAbsent: true})
	if err := errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	return out, nil
}

func remove(fsys vfs.FS, path string) error {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	return nil
}

// List returns a cluster's backups, oldest first. Objects that are none are left out.
func List(ctx context.Context, b bucket.Bucket, cluster string) ([]Backup, error) {
	var out []Backup
	for o, err := range b.List(ctx, archive.BackupsPrefix(cluster), "") {
		if err != nil {
			return nil, &tidegate.Error{Op: "list registry backups in", Subject: b.String(), Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
		}
		if name, err := archive.ParseBackup(o.Name); err == nil {
			out = append(out, Backup{name, o.Size})
		}
	}
	return out, nil
}

// Newest returns the newest backup of list that is not of later than at: one that is
// of the future was taken by a clock that was wrong. tidegate.ErrNotFound when there is none.
func Newest(list []Backup, at time.Time) (Backup, error) {
	for i := len(list) - 1; i >= 0; i-- {
		if !list[i].Taken.After(at) {
			return list[i], nil
		}
	}
	what := "none at all"
	if len(list) > 0 {
		what = "the oldest is of " + list[0].Taken.Format(time.RFC3339)
	}
	return Backup{}, fmt.Errorf("no backup of the registry as of then, %s: %w", what, tidegate.ErrNotFound)
}

// Fetch writes a backup to the new file path and reads it back there. What an error
// leaves there is worth nothing. A *tidegate.CorruptError when it is not what was put.
func Fetch(ctx context.Context, b bucket.Bucket, from Backup, fsys vfs.FS, path string) (err error) {
	fail := func(err error) error {
		return &tidegate.Error{Op: "fetch registry backup", Subject: from.Name(), Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
	}
	r, err := b.Get(ctx, from.Name(), 0, -1)
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	f, err := fsys.Create(path)
	if err != nil {
		return fail(err)
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Sync(), f.Close(), fsys.SyncDir(filepath.Dir(path))); err != nil {
		return fail(err)
	}
	have, err := registry.CheckBackup(fsys, path)
	if err == nil && have.Revision != from.Revision {
		err = &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("is of revision %d, want %d", have.Revision, from.Revision)}
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// Thin removes the backups of a cluster that keep lets go, oldest first, and returns
// them. One that the bucket has locked stays, without an error: it goes later.
func Thin(ctx context.Context, b bucket.Bucket, cluster string, keep archive.Keep) (gone []Backup, err error) {
	list, err := List(ctx, b, cluster)
	if err != nil {
		return nil, err
	}
	times := make([]time.Time, len(list))
	for i := range list {
		times[i] = list[i].Taken
	}
	for i, stays := range keep.Rule(times) {
		if stays {
			continue
		}
		if err := b.Remove(ctx, list[i].Name()); err != nil {
			if tidegate.ClassOf(err) == tidegate.Refused {
				continue
			}
			return gone, &tidegate.Error{Op: "remove registry backup", Subject: list[i].Name(), Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
		}
		gone = append(gone, list[i])
	}
	return gone, nil
}
