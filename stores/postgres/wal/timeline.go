package wal

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Timeline numbers a server's way on; a promotion takes the next number that it
// finds free, so that two servers promoted apart may take the same one. 0 is "none".
type Timeline uint32

// String returns the decimal form, as SQL shows it.
func (t Timeline) String() string { return strconv.FormatUint(uint64(t), 10) }

// HistoryFileName returns "00000002.history".
func (t Timeline) HistoryFileName() string { return fmt.Sprintf("%08X.history", uint32(t)) }

// ParseTimeline reads a decimal number from 1.
func ParseTimeline(s string) (Timeline, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("parse timeline %q: want a decimal number from 1", s)
	}
	return Timeline(n), nil
}

// Switch is a line of a history file: where a timeline was left for the next one.
type Switch struct {
	From   Timeline // the timeline that was left
	At     LSN      // the first byte that is not of From
	Reason string   // for people; no part of any comparison
}

// History is what a timeline's history file lists, oldest first: one Switch for
// every ancestor, none for a timeline without parents.
type History []Switch

// ParseHistory reads the history file of t, as TIMELINE_HISTORY answers it or as
// it lies in pg_wal. Empty lines and lines that begin with # are skipped, and a
// line's rest is its reason, as in PostgreSQL (timeline.c, readTimeLineHistory).
// Timelines that do not grow, and switches that go back, are errors. Empty text
// is right for a timeline without parents.
func ParseHistory(t Timeline, text []byte) (History, error) {
	var h History
	for i, line := range bytes.Split(text, []byte("\n")) {
		s := strings.TrimSpace(string(line))
		if s == "" || s[0] == '#' {
			continue
		}
		one, err := parseSwitch(s)
		if err != nil {
			return nil, fmt.Errorf("parse history of timeline %s: line %d: %w", t, i+1, err)
		}
		h = append(h, one)
	}
	if err := h.check(t); err != nil {
		return nil, fmt.Errorf("parse history of timeline %s: %w", t, err)
	}
	return h, nil
}

func parseSwitch(line string) (Switch, error) {
	number, rest, _ := strings.Cut(line, "\t")
	at, reason, _ := strings.Cut(strings.TrimLeft(rest, " \t"), "\t")
	from, err := ParseTimeline(strings.TrimSpace(number))
	if err != nil {
		return Switch{}, err
	}
	lsn, err := ParseLSN(strings.TrimSpace(at))
	return Switch{From: from, At: lsn, Reason: reason}, err
}

func (h History) check(t Timeline) error {
	if t == 0 {
		return fmt.Errorf("timeline 0: want 1 or more")
	}
	for i, s := range h {
		if s.From == 0 || s.At == 0 {
			return fmt.Errorf("switch from timeline %s at %s: want neither to be 0", s.From, s.At)
		}
		if i > 0 && (s.From <= h[i-1].From || s.At < h[i-1].At) {
			return fmt.Errorf("switch from timeline %s at %s: not after that from %s at %s", s.From, s.At, h[i-1].From, h[i-1].At)
		}
	}
	if n := len(h); n > 0 && h[n-1].From >= t {
		return fmt.Errorf("switch from timeline %s: not an ancestor", h[n-1].From)
	}
	return nil
}

// Format returns the text of a history file that a server accepts.
func (h History) Format() []byte {
	var b []byte
	for _, s := range h {
		reason := strings.Map(func(r rune) rune {
			if r == '\n' || r == '\r' {
				return ' '
			}
			return r
		}, s.Reason)
		b = fmt.Appendf(b, "%s\t%s\t%s\n", s.From, s.At, reason)
	}
	return b
}
