package standby

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// history is a journal's lineage taken apart: whose log it is, and where it
// forked off what was written before.
type history struct {
	root  string
	forks []fork
}

type fork struct {
	epoch tidegate.Epoch
	at    tidegate.Position
}

// parseHistory reads <root>+<epoch>@<position>...; the empty lineage is a history
// of which nothing is known.
func parseHistory(l tidegate.Lineage) (h history, err error) {
	root, rest, more := strings.Cut(string(l), "+")
	h.root = root
	for more {
		var one string
		one, rest, more = strings.Cut(rest, "+")
		epoch, at, ok := strings.Cut(one, "@")
		e, err := tidegate.ParseEpoch(epoch)
		if !ok || err != nil {
			return h, fmt.Errorf("lineage %q: fork %q: want <epoch>@<position>", l, one)
		}
		p, err := tidegate.ParsePosition(at)
		if err != nil {
			return h, fmt.Errorf("lineage %q: fork %q: %w", l, one, err)
		}
		h.forks = append(h.forks, fork{e, p})
	}
	return h, nil
}

func (h history) has(f fork) bool { return slices.Contains(h.forks, f) }

// beyondAll stands for two histories that never part.
const beyondAll = tidegate.Position(math.MaxUint64)

// parts returns the position at which two histories of one root part: where the
// first fork lies that only one of them has taken.
func (h history) parts(o history) tidegate.Position {
	for i := range max(len(h.forks), len(o.forks)) {
		switch {
		case i >= len(h.forks):
			return o.forks[i].at
		case i >= len(o.forks):
			return h.forks[i].at
		case h.forks[i] != o.forks[i]:
			return min(h.forks[i].at, o.forks[i].at)
		}
	}
	return beyondAll
}

// extends reports whether a history may be that of a log which at a position is of
// lineage l: it is l, or l forked there or behind it.
func extends(of, l tidegate.Lineage, at tidegate.Position) bool {
	rest, ok := strings.CutPrefix(string(of), string(l))
	if !ok || rest == "" {
		return ok
	}
	h, err := parseHistory(tidegate.Lineage(rest))
	return err == nil && h.root == "" && h.forks[0].at >= at
}

// logLineage returns the lineage that holds at the end of what is committed: that
// of the newest lineage batch. A writer seals one as the first batch of its term
// where the source's history begins or has forked; empty when the log has none.
func (s *stream) logLineage(ctx context.Context) (tidegate.Lineage, error) {
	s.mu.Lock()
	upTo := s.core.ApplyTo()
	s.mu.Unlock()
	return s.lineageThrough(ctx, upTo)
}

// lineageThrough returns the lineage that holds at the end of a batch.
func (s *stream) lineageThrough(ctx context.Context, upTo tidegate.Seq) (tidegate.Lineage, error) {
	s.mu.Lock()
	terms := s.core.Meta().History.Clone()
	s.mu.Unlock()
	first := s.log.First()
	for i := len(terms) - 1; i >= 0; i-- {
		if seq := terms[i].StartSeq; seq >= first && seq <= upTo {
			if l, ok, err := s.lineageAt(ctx, seq); ok || err != nil {
				return l, err
			}
		}
	}
	older := upTo
	if len(terms) > 0 {
		older = min(upTo, terms[0].StartSeq-1)
	}
	// A history forgets its oldest terms; only the log knows those.
	for seq := older; seq >= first && seq > 0; seq-- {
		if l, ok, err := s.lineageAt(ctx, seq); ok || err != nil || ctx.Err() != nil {
			return l, errors.Join(err, ctx.Err())
		}
	}
	if b := s.begun.Load(); b != nil && upTo >= b.Before.Seq {
		return b.Lineage, nil // the batch that said it has been trimmed
	}
	if first > 1 {
		return "", fmt.Errorf("lineage at batch %s: the log begins with %s: %w", upTo, first, tidegate.ErrNotFound)
	}
	return "", nil
}

// termLineage returns logLineage once a batch of the adopted epoch is committed,
// and nothing before: where the source's history forked, the first one says so.
func (s *stream) termLineage(ctx context.Context, upTo tidegate.Seq) (tidegate.Lineage, error) {
	s.mu.Lock()
	term := s.core.Adopted()
	s.mu.Unlock()
	if term.Epoch == 0 || upTo < term.StartSeq {
		return "", nil
	}
	return s.logLineage(ctx)
}

func (s *stream) lineageAt(ctx context.Context, seq tidegate.Seq) (l tidegate.Lineage, ok bool, err error) {
	_, h, err := s.log.At(seq)
	if err != nil || h.Kind != batch.KindLineage {
		return "", false, err
	}
	cursor, err := s.log.ReadFrom(seq)
	if err != nil {
		return "", false, err
	}
	defer func() { err = errors.Join(err, cursor.Close()) }()
	_, sealed, err := cursor.Next(ctx)
	if err != nil {
		return "", false, err
	}
	var opener batch.Opener
	_, payload, err := opener.Open(nil, sealed)
	if err != nil {
		return "", false, fmt.Errorf("open batch %s: %w", seq, err)
	}
	line, err := batch.ParseLineage(payload)
	if err != nil {
		return "", false, fmt.Errorf("batch %s: %w", seq, err)
	}
	return line.Lineage, true, nil
}

// batchOf returns the batch of a generation that a position lies in.
func (s *stream) batchOf(g tidegate.Generation, at tidegate.Position) (tidegate.Seq, batch.Header, error) {
	seq, err := s.log.FindPosition(g, at)
	if err != nil {
		return 0, batch.Header{}, err
	}
	_, h, err := s.log.At(seq)
	return seq, h, err
}
