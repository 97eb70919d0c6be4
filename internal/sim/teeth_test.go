//go:build !mutate

package sim

import (
	"os/exec"
	"strings"
	"testing"
)

// TestTeeth runs TestBrokenRulesAreFound, which needs a build in which the
// protocol's rules can be broken. That build is never the one that ships.
func TestTeeth(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another test binary")
	}
	gotool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal("no go command to build the other test binary with: put it on the PATH")
	}
	out, err := exec.Command(gotool, "test", "-tags", "mutate", "-run", "TestBrokenRulesAreFound", "-v", ".").CombinedOutput()
	for line := range strings.SplitSeq(string(out), "\n") {
		if strings.Contains(line, "found with seed") || strings.Contains(line, "nothing noticed") {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
