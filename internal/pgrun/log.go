package pgrun

import (
	"os"
	"path/filepath"
	"strings"
)

// LogPath is the file of all that the server has logged since it was made.
func (s *Server) LogPath() string { return filepath.Join(s.Dir, "log") }

// Tail is the last n lines of the log; why it cannot be read, if so.
func (s *Server) Tail(n int) string {
	b, err := os.ReadFile(s.LogPath())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
