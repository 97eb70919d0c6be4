package durable

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

const tempSuffix = ".tmp"

// WriteFile replaces the file at path by one with exactly these bytes. The
// directory must exist.
func WriteFile(fsys vfs.FS, path string, data []byte) error {
	if err := writeFile(fsys, path, data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeFile(fsys vfs.FS, path string, data []byte) error {
	t, err := Create(fsys, path)
	if err != nil {
		return err
	}
	if err := fill(t, data); err != nil {
		return errors.Join(err, t.Discard())
	}
	return t.Commit()
}

// Temp is a file that is being filled and takes its name when it is whole. One of
// Commit and Discard must be called.
type Temp struct {
	vfs.File
	fsys vfs.FS
	path string
}

// Create makes a file that is to be path, or to replace it. The directory must exist.
func Create(fsys vfs.FS, path string) (*Temp, error) {
	f, err := fsys.Create(fmt.Sprintf("%s.%.8s%s", path, tidegate.NewID(), tempSuffix))
	if err != nil {
		return nil, err
	}
	return &Temp{f, fsys, path}, nil
}

// Commit makes the file's bytes durable, and then its name.
func (t *Temp) Commit() error {
	if err := t.Sync(); err != nil {
		return errors.Join(err, t.Discard())
	}
	if err := t.Close(); err != nil {
		return errors.Join(err, t.fsys.Remove(t.Name()))
	}
	if err := t.fsys.Rename(t.Name(), t.path); err != nil {
		return errors.Join(err, t.fsys.Remove(t.Name()))
	}
	return t.fsys.SyncDir(filepath.Dir(t.path))
}

// Discard removes the file: a full disk is the common cause, and the half file is not
// to be left on it. When even that fails, SweepTemp takes it at the next start.
func (t *Temp) Discard() error {
	return errors.Join(t.Close(), t.fsys.Remove(t.Name()))
}

func fill(f vfs.File, data []byte) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size != int64(len(data)) {
		return fmt.Errorf("size is %d after writing %d bytes", size, len(data))
	}
	return nil
}

// MkdirAll makes dir and its missing parents, each durable in its own parent.
// A directory that exists already is made durable too: the process that made it
// may have been killed before it came to that.
func MkdirAll(fsys vfs.FS, dir string) error {
	if err := mkdirAll(fsys, filepath.Clean(dir)); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	return nil
}

func mkdirAll(fsys vfs.FS, dir string) error {
	parent := filepath.Dir(dir)
	if parent == dir {
		return nil
	}
	info, err := fsys.Stat(dir)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		if err := mkdirAll(fsys, parent); err != nil {
			return err
		}
		if err := fsys.MkdirAll(dir); err != nil {
			return err
		}
	case err != nil:
		return err
	case !info.Dir:
		return fmt.Errorf("%s is not a directory", dir)
	}
	return fsys.SyncDir(parent)
}

// SweepTemp removes what an interrupted [WriteFile] or [Temp] left in dir. Such a file
// was never acknowledged to anybody. Call it at start, before anything writes.
func SweepTemp(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	swept := false
	for _, name := range names {
		if !strings.HasSuffix(name, tempSuffix) {
			continue
		}
		if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("sweep %s: %w", dir, err)
		}
		swept = true
	}
	if !swept {
		return nil
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	return nil
}

// RemoveTree removes path and what is below it, for what is left of work that was cut
// short and was never counted on. What is missing is no error; nothing is synced, so
// that a power cut may bring some of it back. A symbolic link is removed, wherever it
// leads, and what it leads to stays as it is. Nobody may change the tree meanwhile.
func RemoveTree(fsys vfs.FS, path string) error {
	err := fsys.Remove(path)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return nil
	case !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST): // what a directory says that has something in it
		return err
	}
	names, err := fsys.List(path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := RemoveTree(fsys, filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return fsys.Remove(path)
}
