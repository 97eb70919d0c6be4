package pgtest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// Log is what the server has logged since it was made, over all restarts.
func (s *Server) Log(tb testing.TB) string {
	tb.Helper()
	b, err := os.ReadFile(s.LogPath())
	if err != nil && !os.IsNotExist(err) {
		tb.Errorf("log of %s: %v", s.Name, err)
	}
	return string(b)
}

// LogSize is where the log ends now, in bytes, for [Server.LogSince].
func (s *Server) LogSize(tb testing.TB) int {
	tb.Helper()
	return len(s.Log(tb))
}

// LogSince is what the server has logged after mark.
func (s *Server) LogSince(tb testing.TB, mark int) string {
	tb.Helper()
	return s.Log(tb)[mark:]
}

// UntilLog waits until the log after mark has a line that matches the regular
// expression, and returns the line.
func (s *Server) UntilLog(tb testing.TB, mark int, pattern string) string {
	tb.Helper()
	re := regexp.MustCompile(pattern)
	var line string
	Until(tb, fmt.Sprintf("%q in the log of %s", pattern, s.Name), func(context.Context) error {
		for l := range strings.SplitSeq(s.LogSince(tb, mark), "\n") {
			if re.MatchString(l) {
				line = l
				return nil
			}
		}
		return fmt.Errorf("no line matches")
	})
	return line
}

// complaint are the lines of a standby that show it was fed something wrong, even
// when it heals itself by asking again.
var complaint = regexp.MustCompile(`PANIC:|ERROR:|FATAL:|incorrect|invalid|mismatch|unexpected|record with|contrecord|xl_tot_len|out-of-sequence|corrupt|insufficient parameter`)

// early is what this package's own wait for a server makes it say.
var early = regexp.MustCompile(`client backend FATAL:  the database system is (starting up|not yet accepting connections|shutting down)`)

// Complaints are the lines after mark that speak of errors or of broken records,
// without connections that came too early and without those that match one of the
// excuses (regular expressions).
func (s *Server) Complaints(tb testing.TB, mark int, excuses ...string) []string {
	tb.Helper()
	var out []string
lines:
	for l := range strings.SplitSeq(s.LogSince(tb, mark), "\n") {
		if !complaint.MatchString(l) || early.MatchString(l) {
			continue
		}
		for _, e := range excuses {
			if regexp.MustCompile(e).MatchString(l) {
				continue lines
			}
		}
		out = append(out, l)
	}
	return out
}
