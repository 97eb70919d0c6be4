package wal_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// TestDocument holds docs/formats/postgres.md against the code.
func TestDocument(t *testing.T) {
	b, err := os.ReadFile("../../../docs/formats/postgres.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for v := wal.Version(12); v <= 18; v++ {
		yes := "no"
		if slices.Contains(wal.Versions(), v) {
			yes = "yes"
		}
		if want := fmt.Sprintf("\n| %d | %04X | %s |\n", v, v.Magic(), yes); !strings.Contains(text, want) {
			t.Errorf("docs/formats/postgres.md does not say %q", want)
		}
	}
	l := wal.Lineage{System: 7301234567890123456, First: 1, Forks: []wal.Fork{{2, 0x3000158}, {5, 0x1DC2431B0}}}
	for _, want := range []string{
		"\n" + l.String() + "\n", fmt.Sprintf("A page has %d bytes", wal.PageSize), fmt.Sprintf("at most %d bytes", wal.LineageBytesMax),
		wal.LSN(0x16B374D848).String(),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("docs/formats/postgres.md does not say %q", want)
		}
	}
	for k := wal.Commit; k <= wal.Settings; k++ {
		if !strings.Contains(text, k.String()) {
			t.Errorf("docs/formats/postgres.md does not name the event %q", k)
		}
	}
}
