package standby

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/snapshot"
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
	at, _ := h.parting(o)
	return at
}

// parting is parts, and whether it was o that took another way there; both may have.
func (h history) parting(o history) (at tidegate.Position, other bool) {
	for i := range max(len(h.forks), len(o.forks)) {
		switch {
		case i >= len(h.forks):
			return o.forks[i].at, true
		case i >= len(o.forks):
			return h.forks[i].at, false
		case h.forks[i] != o.forks[i]:
			return min(h.forks[i].at, o.forks[i].at), o.forks[i].at <= h.forks[i].at
		}
	}
	return beyondAll, false
}

// verdict is whether a base is of the history that a log has.
type verdict uint8

const (
	verdictOpen verdict = iota // the log has not come to where that shows
	verdictOf                  // it is, as far as the base reaches: they are a state
	verdictNot                 // it never will be, unless the log is cut
)

// judge compares the history that a base was taken of with the log's: the log is of
// lineage l at its end. A log that never said of which it is, is compared by nothing
// but how far it reaches.
func judge(base snapshot.Base, l tidegate.Lineage, end tidegate.Position) verdict {
	reached := verdictOpen
	if end >= base.End {
		reached = verdictOf
	}
	if l == "" {
		return reached
	}
	own, err := parseHistory(base.Lineage)
	log, lerr := parseHistory(l)
	if err != nil || lerr != nil || own.root != log.root {
		return verdictNot
	}
	switch at, forked := own.parting(log); {
	case at >= base.End:
		return reached
	case forked || end > at:
		return verdictNot
	}
	return verdictOpen // the base's fork lies ahead
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

// batchOf returns the batch of a generation that a position lies in.
func (s *stream) batchOf(g tidegate.Generation, at tidegate.Position) (tidegate.Seq, batch.Header, error) {
	seq, err := s.log.FindPosition(g, at)
	if err != nil {
		return 0, batch.Header{}, err
	}
	_, h, err := s.log.At(seq)
	return seq, h, err
}
