package standby

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// beginFileName is where a log that does not begin with its stream begins, in the
// stream's directory. It is written before the log is changed.
const (
	beginFileName = "begin.json"
	beginVersion  = 1
)

type beginFile struct {
	Version    int                 `json:"version"`
	Before     tidegate.LogPos     `json:"before"` // the last batch that went
	Position   tidegate.Position   `json:"position"`
	Generation tidegate.Generation `json:"generation"`
	Opened     tidegate.Epoch      `json:"opened"`
	Lineage    tidegate.Lineage    `json:"lineage"`
}

// readBegin reads where the log begins; the zero value when it was never trimmed.
func (s *stream) readBegin() (shipper.Begin, error) {
	path := filepath.Join(s.dir, beginFileName)
	raw, err := readFile(s.n.deps.FS, path)
	if errors.Is(err, tidegate.ErrNotFound) {
		return shipper.Begin{}, nil
	}
	if err != nil {
		return shipper.Begin{}, fmt.Errorf("read %s: %w", path, err)
	}
	var f beginFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return shipper.Begin{}, &tidegate.CorruptError{Path: path, Offset: -1, What: err.Error()}
	}
	if f.Version != beginVersion || f.Before.Seq == 0 {
		return shipper.Begin{}, &tidegate.CorruptError{Path: path, Offset: -1, What: fmt.Sprintf("version %d, behind batch %s", f.Version, f.Before.Seq)}
	}
	return shipper.Begin{Before: f.Before, Position: f.Position, Generation: f.Generation, Opened: f.Opened, Lineage: f.Lineage}, nil
}

// writeBegin writes down where the log is to begin.
func (s *stream) writeBegin(b shipper.Begin) error {
	raw, err := json.MarshalIndent(beginFile{beginVersion, b.Before, b.Position, b.Generation, b.Opened, b.Lineage}, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.n.deps.FS, filepath.Join(s.dir, beginFileName), raw); err != nil {
		return err
	}
	s.begun.Store(&b)
	return nil
}

// forgetBegin is for a log that begins with its stream after all.
func (s *stream) forgetBegin() error {
	if s.begun.Load() == nil {
		return nil
	}
	if err := s.n.deps.FS.Remove(filepath.Join(s.dir, beginFileName)); err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	s.begun.Store(nil)
	return s.n.deps.FS.SyncDir(s.dir)
}

// begin returns where the log begins, if it does not begin with its stream. ok is
// false while that is not known: for the moment in which it is being trimmed.
func (s *stream) begin() (b shipper.Begin, ok bool) {
	first := s.log.First()
	if first == 1 {
		return b, true
	}
	if at := s.begun.Load(); at != nil && at.Before.Seq+1 == first {
		return *at, true
	}
	return b, false
}

// settleBegin compares what was written down with the log that was found, and
// finishes a trim that a crash has cut short: what it takes away was not needed any
// more when it was written down. Anything else that does not fit is damage.
func (s *stream) settleBegin(log *deltalog.Log, b shipper.Begin) error {
	first, end := log.First(), log.End().Seq
	damaged := func(format string, args ...any) error {
		return &tidegate.CorruptError{Path: filepath.Join(s.dir, beginFileName), Offset: -1, What: fmt.Sprintf(format, args...)}
	}
	switch {
	case b.Before.Seq == 0 && first > 1:
		return damaged("missing: the log begins with batch %s", first)
	case b.Before.Seq == 0:
		return nil
	case log.Empty():
		return nil // it is begun anew, before anything is put into it
	case first > b.Before.Seq+1:
		return damaged("the log begins with batch %s, it was to begin behind %s", first, b.Before.Seq)
	case end <= b.Before.Seq:
		return damaged("the log ends at %s, it was to begin behind %s", end, b.Before.Seq)
	}
	have, err := log.Before()
	if first <= b.Before.Seq {
		have, _, err = log.At(b.Before.Seq)
	}
	if err != nil {
		return err
	}
	if have.Chain != b.Before.Chain {
		return damaged("batch %s was %s, the log has %s there", b.Before.Seq, b.Before.Chain, have.Chain)
	}
	if err := log.TrimBefore(b.Before.Seq + 1); err != nil {
		return err
	}
	if first = log.First(); first != b.Before.Seq+1 {
		return damaged("batch %s is no segment's first", b.Before.Seq+1)
	}
	return nil
}

// logView answers the core from the log.
type logView struct{ s *stream }

// At implements fence.LogView.
func (v logView) At(seq tidegate.Seq) (tidegate.LogPos, error) {
	if seq == 0 {
		return tidegate.LogPos{}, nil
	}
	if b := v.s.begun.Load(); b != nil && b.Before.Seq == seq && v.s.log.First() == seq+1 {
		return b.Before, nil
	}
	pos, _, err := v.s.log.At(seq)
	return pos, err
}

// coreEnd is the end of the log as the core is told. One that was begun behind some
// other, and holds nothing yet, is empty for the core: it is begun anew where
// somebody's log begins then.
func coreEnd(log *deltalog.Log) tidegate.LogPos {
	if log.Empty() {
		return tidegate.LogPos{}
	}
	return log.Durable()
}
