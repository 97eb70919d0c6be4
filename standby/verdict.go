package standby

import (
	"errors"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// verdict returns whether a base is of the history that the log has. While the
// log cannot be read, none is taken to be. mu is held.
func (b *bases) verdict(l *snapshot.Listed) verdict {
	if v, known := b.judged[l.Name]; known {
		return v
	}
	v, err := b.s.judgeBase(l.Info)
	if err != nil {
		return verdictNot
	}
	if v != verdictOpen {
		if b.judged == nil {
			b.judged = map[snapshot.Name]verdict{}
		}
		b.judged[l.Name] = v
		if v == verdictNot {
			b.s.lg.Warn("base is of a history that the log went on without; it does not count", "generation", uint32(l.Generation), "start", l.Start.String(),
				"lineage", string(l.Lineage), "name", l.Name.String())
		}
	}
	return v
}

// judgeBase compares a base with the end of its generation in the log. mu is held.
func (s *stream) judgeBase(info snapshot.Info) (verdict, error) {
	end := s.log.End().Seq
	if end == 0 || s.log.Empty() {
		return verdictOpen, nil
	}
	last, h, err := s.endOf(info.Generation)
	if err != nil {
		return verdictOpen, err
	}
	if last == 0 || h.Generation != info.Generation {
		return verdictOpen, nil // the log is not of it yet, or not any more
	}
	sp, err := s.bases.span(s.log, info.Generation, last)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return verdictOpen, nil // who opened it is not known for a moment
	case err != nil:
		return verdictOpen, err
	case sp.opened != info.Opened:
		return verdictNot, nil
	}
	line, err := s.lineIn(sp.first, last)
	if at := s.begun.Load(); line == "" && err == nil && at != nil && at.Generation == info.Generation {
		line = at.Lineage // the batch that said it has been trimmed
	}
	return judge(info.Base, line, h.Next), err
}
