package standby

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

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
// The disk that has just failed may refuse this, too; so it is written to the run
// directory as well, which is in memory: that outlives the process, and what the
// kernel pretends about the log's pages does not outlive the machine's memory.
// One of the two is enough.
func (s *stream) doubt(cause error) error {
	b, err := json.Marshal(suspect{Version: suspectVersion, Durable: s.log.Durable(), Cause: cause.Error()})
	if err != nil {
		return fmt.Errorf("note failed sync: %w", err)
	}
	var errs []error
	for _, path := range s.suspectPaths() {
		err := durable.MkdirAll(s.n.deps.FS, filepath.Dir(path))
		if err == nil {
			err = durable.WriteFile(s.n.deps.FS, path, b)
		}
		if err == nil {
			s.lg.Error("sync failed: what is not certain of the log goes to quarantine at the next start", "noted", path)
		}
		errs = append(errs, err)
	}
	if slices.Contains(errs, nil) {
		return nil
	}
	return errors.Join(errs...)
}

// suspectPaths lists where a failed sync is noted.
func (s *stream) suspectPaths() []string {
	paths := []string{filepath.Join(s.dir, suspectFile)}
	if run := s.n.cfg.RunDir; run != "" {
		paths = append(paths, filepath.Join(run, "suspect", string(s.n.cfg.Node), s.id.String()+".json"))
	}
	return paths
}

// clearDoubt moves what is not certain of a log to quarantine, before anybody
// reads or syncs it. It comes again, from the writer or in an adopt.
func (s *stream) clearDoubt(log *deltalog.Log) error {
	for _, path := range s.suspectPaths() {
		if err := s.clearDoubtAt(log, path); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) clearDoubtAt(log *deltalog.Log, path string) error {
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
	if d.Durable.Seq > log.End().Seq {
		return &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("log ends at %s, %s was durable", log.End().Seq, d.Durable.Seq)}
	}
	summary, err := log.CutTo(d.Durable.Seq, quarantineRoot(s.n.cfg.DataDir), s.meta.Promise.Epoch, reasonSyncFailed, s.n.deps.Clock)
	if err != nil {
		return fmt.Errorf("quarantine the tail of a failed sync: %w", err)
	}
	if summary.Dir != "" {
		s.lg.Warn("tail of a failed sync moved to quarantine", "cause", d.Cause, "path", summary.Dir, "batches", summary.Batches)
	}
	if err := s.n.deps.FS.Remove(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return s.n.deps.FS.SyncDir(filepath.Dir(path))
}
