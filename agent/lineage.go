package agent

import (
	"strings"

	"github.com/tidegate/tidegate"
)

// A lineage is a root and the forks taken since, oldest first, whatever the
// store: <root>+<branch>@<position>+<branch>@<position>.

// nextFork returns the lineage that follows from on the way to now, and where it
// forks off; false when now does not go on from from.
func nextFork(from, now tidegate.Lineage) (next tidegate.Lineage, at tidegate.Position, ok bool) {
	rest, ok := strings.CutPrefix(string(now), string(from)+"+")
	if !ok || from == "" {
		return "", 0, false
	}
	one, _, _ := strings.Cut(rest, "+")
	_, position, ok := strings.Cut(one, "@")
	if !ok {
		return "", 0, false
	}
	at, err := tidegate.ParsePosition(position)
	return from + "+" + tidegate.Lineage(one), at, err == nil
}

// lineageBefore returns what l was for a log that ends at start: without the
// forks at and beyond it, which may still have to be told.
func lineageBefore(l tidegate.Lineage, start tidegate.Position) tidegate.Lineage {
	root, _, _ := strings.Cut(string(l), "+")
	before := tidegate.Lineage(root)
	for {
		next, at, ok := nextFork(before, l)
		if !ok || at >= start {
			return before
		}
		before = next
	}
}

// lineageNow returns the lineage that the library said last.
func (s *stream) lineageNow() tidegate.Lineage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lib.lineage
}
