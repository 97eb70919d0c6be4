package standby

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// suspectFile remembers a failed sync across the restart that it forces. The
// kernel forgets that pages were dirty once it could not write them: the tail
// can still be read from memory, and the next sync would call it durable.
const suspectFile = "suspect.json"

const suspectVersion = 1

// reasonSyncFailed names the quarantine of a tail whose sync failed.
const reasonSyncFailed = "sync-failed"

// suspect is what is certain of a log whose sync failed: everything through
// Durable, which is all that was ever acknowledged.
type suspect struct {
	Version int             `json:"version"`
	Durable tidegate.LogPos `json:"durable"`
	Cause   string          `json:"cause"`
}

// doubt writes down that the log beyond its durable end may not be on the disk.
func (s *stream) doubt(cause error) error {
	b, err := json.Marshal(suspect{Version: suspectVersion, Durable: s.log.Durable(), Cause: cause.Error()})
	if err != nil {
		return fmt.Errorf("note failed sync: %w", err)
	}
	return durable.WriteFile(s.n.deps.FS, filepath.Join(s.dir, suspectFile), b)
}

// clearDoubt moves what is not certain of a log to quarantine, before anybody
// reads or syncs it. It comes again, from the writer or in an adopt.
func (s *stream) clearDoubt(log *deltalog.Log) error {
	path := filepath.Join(s.dir, suspectFile)
	b, err := readFile(s.n.deps.FS, path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	var d suspect
	if err := json.Unmarshal(b, &d); err != nil || d.Version != suspectVersion {
		return &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("version %d, %v", d.Version, err)}
	}
	summary, err := log.CutTo(d.Durable.Seq, quarantineRoot(s.n.cfg.DataDir), s.meta.Promise.Epoch, reasonSyncFailed, s.n.deps.Clock)
	if err != nil {
		return fmt.Errorf("quarantine the tail of a failed sync: %w", err)
	}
	s.lg.Warn("tail of a failed sync moved to quarantine", "cause", d.Cause, "path", summary.Dir, "batches", summary.Batches)
	if err := s.n.deps.FS.Remove(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return s.n.deps.FS.SyncDir(s.dir)
}
