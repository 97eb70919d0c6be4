package past

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	// kept is how many recoveries the file holds.
	kept     = 200
	bytesMax = 1 << 20
)

type document struct {
	Version    int        `json:"version"` // 1
	Recoveries Recoveries `json:"recoveries"`
}

// Read returns what a file holds; nothing where there is none.
func Read(fsys vfs.FS, path string) (_ Recoveries, err error) {
	f, err := fsys.Open(path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(io.LimitReader(f, bytesMax))
	if err != nil {
		return nil, err
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil || d.Version != 1 {
		return nil, &tidegate.Error{
			Op: "read", Subject: path, Class: tidegate.Corrupt,
			Err:  fmt.Errorf("is no list of recoveries of version 1 (%v)", err), //nolint:errorlint // it may be nil
			Hint: "move it away: predictions begin anew",
		}
	}
	return d.Recoveries, nil
}

// Keep adds a recovery to a file, which is made where there is none; the oldest go.
// tidegate.ErrConflict while another process does.
func Keep(fsys vfs.FS, path string, r Recovery) (err error) {
	if err := durable.MkdirAll(fsys, filepath.Dir(path)); err != nil {
		return err
	}
	lock, err := fsys.Lock(path + ".lock")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	all, err := Read(fsys, path)
	if err != nil {
		return err
	}
	all = append(all, r)
	text, err := json.Marshal(document{1, all[max(0, len(all)-kept):]})
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, path, append(text, '\n'))
}
