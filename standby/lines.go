package standby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// linesFileName is what a log says of its source's lineage, and where, in the
// stream's directory. A lineage may be said anywhere in a term: where a database's
// replica was promoted, behind what it was taken over at.
const (
	linesFileName = "lines.json"
	linesVersion  = 1
)

// line is what one lineage batch says. Its chain tells whether that batch is in the log.
type line struct {
	Seq     tidegate.Seq     `json:"seq"`
	Chain   tidegate.Chain   `json:"chain"`
	Lineage tidegate.Lineage `json:"lineage"` // from the batch on
}

type linesFile struct {
	Version int    `json:"version"` // linesVersion
	Lines   []line `json:"lines"`
}

// lines are the lineage batches that the log has, and some that it had, or was to have.
//
// Invariant: every lineage batch of the log is in list, and in the file, before it is
// appended. list is guarded by the stream's mu, and never changed in place.
type lines struct {
	noting sync.Mutex // one batch at a time is written down; it is taken before mu
	list   []line     // by seq
}

// noteLine writes down what a verified batch that is about to be appended says of the
// lineage. Should it not be appended, nothing is claimed by it.
func (s *stream) noteLine(h *batch.Header, sealed []byte) error {
	if h.Kind != batch.KindLineage {
		return nil
	}
	l, err := lineOf(h, sealed)
	if err != nil {
		return err
	}
	s.lines.noting.Lock()
	defer s.lines.noting.Unlock()
	s.mu.Lock()
	list := slices.Clone(s.lines.list)
	s.mu.Unlock()
	if slices.Contains(list, l) {
		return nil
	}
	first := s.log.First()
	list = slices.DeleteFunc(append(list, l), func(o line) bool { return o.Seq < first })
	slices.SortStableFunc(list, func(a, b line) int { return int(int64(a.Seq) - int64(b.Seq)) }) //nolint:gosec // far below 2^63
	if err := s.writeLines(list); err != nil {
		return s.appendFailed(fmt.Errorf("note lineage of batch %s: %w", h.Seq, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines.list = list
	return nil
}

func lineOf(h *batch.Header, sealed []byte) (line, error) {
	var opener batch.Opener
	_, payload, err := opener.Open(nil, sealed)
	if err != nil {
		return line{}, fmt.Errorf("open batch %s: %w", h.Seq, err)
	}
	l, err := batch.ParseLineage(payload)
	if err != nil {
		return line{}, fmt.Errorf("batch %s: %w", h.Seq, err)
	}
	return line{h.Seq, h.Chain, l.Lineage}, nil
}

func (s *stream) writeLines(list []line) error {
	raw, err := json.MarshalIndent(linesFile{linesVersion, list}, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(s.n.deps.FS, filepath.Join(s.dir, linesFileName), raw)
}

// readLines reads what was written down. It is the log's own word: where the file is
// missing or damaged, the log is read through, once.
func (s *stream) readLines(ctx context.Context, log *deltalog.Log) error {
	path := filepath.Join(s.dir, linesFileName)
	raw, err := readFile(s.n.deps.FS, path)
	if err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	var f linesFile
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err == nil && f.Version == linesVersion {
		s.lines.list = f.Lines
		return nil
	}
	if log.Empty() {
		return nil
	}
	s.lg.Info("looking through the log for what it says of its lineage", "first", log.First().String(), "end", log.End().Seq.String())
	list, err := findLines(ctx, log)
	if err != nil {
		return fmt.Errorf("find lineages in the log: %w", err)
	}
	if err := s.writeLines(list); err != nil {
		return err
	}
	s.lines.list = list
	return nil
}

// findLines reads the headers of a whole log.
func findLines(ctx context.Context, log *deltalog.Log) (list []line, err error) {
	for seq := log.First(); seq <= log.End().Seq; seq++ {
		_, h, err := log.At(seq)
		if err != nil {
			return nil, err
		}
		if h.Kind != batch.KindLineage {
			continue
		}
		l, err := readLine(ctx, log, seq)
		if err != nil {
			return nil, err
		}
		list = append(list, l)
	}
	return list, ctx.Err()
}

func readLine(ctx context.Context, log *deltalog.Log, seq tidegate.Seq) (l line, err error) {
	cursor, err := log.ReadFrom(seq)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, cursor.Close()) }()
	h, sealed, err := cursor.Next(ctx)
	if err != nil {
		return l, err
	}
	return lineOf(&h, sealed)
}

// logLineage returns the lineage that holds at the end of what is committed: that
// of the newest lineage batch. A writer seals one where the source's history begins
// or has forked; empty when the log has none.
func (s *stream) logLineage() (tidegate.Lineage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lineThrough(s.core.ApplyTo())
}

// lineageThrough returns the lineage that holds at the end of a batch.
func (s *stream) lineageThrough(upTo tidegate.Seq) (tidegate.Lineage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lineThrough(upTo)
}

// lineThrough is lineageThrough with mu held.
func (s *stream) lineThrough(upTo tidegate.Seq) (tidegate.Lineage, error) {
	first := s.log.First()
	if l, err := s.lineIn(first, upTo); l != "" || err != nil {
		return l, err
	}
	if b := s.begun.Load(); b != nil && upTo >= b.Before.Seq {
		return b.Lineage, nil // the batch that said it has been trimmed
	}
	if first > 1 {
		return "", fmt.Errorf("lineage at batch %s: the log begins with %s: %w", upTo, first, tidegate.ErrNotFound)
	}
	return "", nil
}

// lineIn returns what the newest lineage batch from first to last says; empty when
// there is none. mu is held.
func (s *stream) lineIn(first, last tidegate.Seq) (tidegate.Lineage, error) {
	for _, l := range slices.Backward(s.lines.list) {
		if l.Seq < first || l.Seq > last {
			continue
		}
		at, _, err := s.log.At(l.Seq)
		switch {
		case errors.Is(err, tidegate.ErrNotFound):
		case err != nil:
			return "", err
		case at.Chain == l.Chain:
			return l.Lineage, nil
		}
	}
	return "", nil
}

// termLineage returns logLineage once a batch of the adopted epoch is committed,
// and nothing before: where the source's history forked, the first one says so.
func (s *stream) termLineage(upTo tidegate.Seq) (tidegate.Lineage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	term := s.core.Adopted()
	if term.Epoch == 0 || upTo < term.StartSeq {
		return "", nil
	}
	return s.lineThrough(s.core.ApplyTo())
}
