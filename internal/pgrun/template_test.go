package pgrun_test

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// Servers are strangers to each other, although one template was made for them.
func TestEachServerIsOneOfItsOwn(t *testing.T) {
	seen := map[string]bool{}
	for range 2 {
		s := own(t)(pgrun.New(pgrun.Config{}))
		out, err := s.Install.Run("pg_controldata", "-D", s.DataDir)
		if err != nil || strings.Contains(out, "WARNING") {
			t.Fatalf("%v: %s", err, out)
		}
		id, err := s.Text(t.Context(), "SELECT system_identifier FROM pg_control_system()")
		if err != nil || seen[id] || !strings.Contains(out, id) {
			t.Errorf("system %s, %v, after %v; %s", id, err, seen, out)
		}
		seen[id] = true
	}
}
