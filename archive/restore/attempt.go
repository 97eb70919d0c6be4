package restore

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
)

// Names in the directory.
const (
	attemptFile = "restore.json"
	doneFile    = "restored.json"
	lockFile    = "restore.lock"
	attemptsMax = 64 << 10
)

// attempt is what an unfinished restore is of. The log's end is fixed by the first
// one: what is archived meanwhile does not change what is restored.
type attempt struct {
	Version  int               `json:"version"` // 1
	Archive  string            `json:"archive"`
	Stream   tidegate.StreamID `json:"stream"`
	Base     string            `json:"base,omitempty"` // name of its manifest
	To       string            `json:"to"`
	Begin    tidegate.LogPos   `json:"begin"`
	End      tidegate.LogPos   `json:"end"`
	Started  time.Time         `json:"started"`
	Attempts int               `json:"attempts"`
	Unproven bool              `json:"unproven,omitempty"` // see Result; known with Ending
	// Ending is written just before the store gets its name; then nothing is left to
	// do but to say so.
	Ending *stores.Restored `json:"ending,omitempty"`
}

func (a attempt) same(b attempt) bool {
	b.Archive, b.Started, b.Attempts, b.Ending, b.Unproven = a.Archive, a.Started, a.Attempts, a.Ending, a.Unproven // wherever the archive is reached
	return a == b
}

func readAttempt(fsys vfs.FS, dir string) (a attempt, there bool, err error) {
	path := filepath.Join(dir, attemptFile)
	f, err := fsys.Open(path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return a, false, nil
	}
	if err != nil {
		return a, false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(io.LimitReader(f, attemptsMax))
	if err != nil {
		return a, false, err
	}
	if err := json.Unmarshal(text, &a); err != nil || a.Version != 1 {
		return a, false, &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("is no attempt of version 1: %v", err)}
	}
	return a, true, nil
}

func (a attempt) write(fsys vfs.FS, dir string) error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, filepath.Join(dir, attemptFile), append(text, '\n'))
}

// ours are the names that an unfinished restore leaves.
var ours = []string{attemptFile, lockFile, "restoring", "run", "log"}

// checkDir refuses a directory that is not empty, unless it holds an attempt at the
// same. resumed is that attempt.
func checkDir(fsys vfs.FS, dir string, want attempt) (resumed *attempt, err error) {
	no := func(hint string, err error) error {
		return &tidegate.Error{Op: "restore into", Subject: dir, Class: tidegate.Refused, Hint: hint, Err: err}
	}
	const fresh = "name a directory that is empty, or is not there: nothing in this one is touched"
	info, err := fsys.Stat(dir)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Dir {
		return nil, no(fresh, errors.New("it is no directory"))
	}
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	had, there, err := readAttempt(fsys, dir)
	if err != nil {
		return nil, no(fresh, err)
	}
	for _, name := range names {
		if name == "lost+found" || name == lockFile { // a new disk's; a restore's that had not begun
			continue
		}
		if !there {
			return nil, no(fresh, fmt.Errorf("it is not empty: it has %s", name))
		}
		if had.Ending != nil && strings.HasPrefix(had.Ending.Path, filepath.Join(dir, name)) {
			continue
		}
		if !slices.Contains(ours, name) && filepath.Ext(name) != ".tmp" {
			return nil, no(fresh, fmt.Errorf("it has %s, which no restore has left", name))
		}
	}
	if !there {
		return nil, nil
	}
	if want.To == had.To && want.Base == had.Base && want.To == (To{}).String() {
		want.End = had.End // the end of then
	}
	if !had.same(want) {
		return nil, no("finish that one with the same arguments, or name another directory",
			fmt.Errorf("it holds an unfinished restore of stream %s to %s, base %.12s", had.Stream, had.To, had.Base))
	}
	return &had, nil
}

// Begun refuses a directory that is neither empty nor that of an unfinished restore: what
// [Plan.Check] asks, as far as that can be asked without a plan.
func (t Target) Begun() error {
	if _, there, err := readAttempt(t.FS, t.Dir); err == nil && there {
		return nil
	}
	_, err := checkDir(t.FS, t.Dir, attempt{})
	return err
}

// GoingOn is the choice of an unfinished restore in t's directory, if there is one to the
// same target and no base was chosen: that one's base, whatever was archived since. Any
// other directory is for Check to refuse.
func (c Choice) GoingOn(t Target) Choice {
	if had, there, err := readAttempt(t.FS, t.Dir); err == nil && there && c.Base == "" && had.To == c.To.String() {
		c.Base = cmp.Or(had.Base, NoBase)
	}
	return c
}

// checkRoom refuses a file system that has not the room.
func checkRoom(fsys vfs.FS, dir string, need int64) error {
	at := dir
	for {
		_, err := fsys.Stat(at)
		if err == nil || filepath.Dir(at) == at {
			break
		}
		if !errors.Is(err, tidegate.ErrNotFound) {
			return err
		}
		at = filepath.Dir(at)
	}
	free, _, err := fsys.Free(at)
	if err != nil {
		return err
	}
	if uint64(max(need, 0)) > free {
		return &tidegate.Error{
			Op: "restore into", Subject: dir, Class: tidegate.Refused,
			Err:  fmt.Errorf("its file system has %d MiB free, and %d MiB are needed", free>>20, need>>20),
			Hint: "nothing was written; name a directory on a larger one",
		}
	}
	return nil
}
