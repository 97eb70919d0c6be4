package rates

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestDocumentListsEveryFile(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operating/rates.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range All() {
		if row := fmt.Sprintf("| `%s` | %s | %s | %s |\n", l.Name, l.Unit, l.Daemon, l.Meaning); !strings.Contains(string(doc), row) {
			t.Errorf("docs/operating/rates.md lacks %q", row)
		}
	}
	if got := strings.Count(string(doc), "\n| `"); got != len(All()) {
		t.Errorf("docs/operating/rates.md lists %d files, there are %d", got, len(All()))
	}
}
