package rates

import (
	"errors"
	"path/filepath"
	"strconv"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Look returns what a limit's file says now, whether or not a daemon has obeyed
// it yet. limited is false when there is no file.
func Look(dir string, l Limit) (perSecond int64, limited bool, err error) {
	c := read(dir, l)
	if c.err != "" {
		return 0, false, &tidegate.Error{
			Op: "read rate", Subject: filepath.Join(dir, l.Name), Class: tidegate.Misuse, Err: errors.New(c.err),
			Hint: "the daemons keep the last good value; write a number, or delete the file to lift the limit",
		}
	}
	return c.rate, c.limited, nil
}

// Set writes a limit's file, and the directory if that is missing. Daemons that
// run obey it within [PollEvery].
func Set(fsys vfs.FS, dir string, l Limit, perSecond int64) error {
	if err := durable.MkdirAll(fsys, dir); err != nil {
		return err
	}
	return durable.WriteFile(fsys, filepath.Join(dir, l.Name), []byte(strconv.FormatInt(perSecond, 10)+"\n"))
}

// Lift deletes a limit's file; one that is not there is lifted already.
func Lift(fsys vfs.FS, dir string, l Limit) error {
	err := fsys.Remove(filepath.Join(dir, l.Name))
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}
