package agent

import (
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// lineagePayload returns the lineage batch that opens a term at start, if one
// is due: where a stream begins, and where the source's history has forked at
// or after the end of what was shipped before.
func lineagePayload(l tidegate.Lineage, start tidegate.Position, first bool) (payload []byte, due bool, err error) {
	if l == "" {
		return nil, false, nil
	}
	parent, at, forked := lastFork(l)
	if !first && (!forked || at < start) {
		return nil, false, nil
	}
	b := batch.Lineage{Lineage: l}
	if !first {
		b.Previous = parent
	}
	payload, err = b.Append(nil)
	return payload, true, err
}

// lastFork takes the last "+<branch>@<position>" off a lineage.
func lastFork(l tidegate.Lineage) (parent tidegate.Lineage, at tidegate.Position, ok bool) {
	head, tail, found := cutLast(string(l), "+")
	if !found {
		return "", 0, false
	}
	_, pos, found := strings.Cut(tail, "@")
	if !found {
		return "", 0, false
	}
	at, err := tidegate.ParsePosition(pos)
	return tidegate.Lineage(head), at, err == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
