package racetest

import (
	"os/exec"
	"strings"
	"testing"
)

// Apart runs the test that calls it in a binary of its own, where this one has the
// race detector, and reports whether it has: then there is nothing left to do.
func Apart(t *testing.T) bool {
	t.Helper()
	if Enabled {
		Run(t, func(string) bool { return true }, "-run", "^"+t.Name()+"$")
	}
	return Enabled
}

// Run runs tests of the caller's package in a binary without the race detector, with
// arguments of `go test`, and logs the lines of its output that show takes. It fails t
// with all of the output when they fail.
func Run(t *testing.T, show func(line string) bool, args ...string) {
	t.Helper()
	gotool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal("no go command to build the other test binary with: put it on the PATH")
	}
	out, err := exec.Command(gotool, append([]string{"test", ".", "-count=1", "-v"}, args...)...).CombinedOutput()
	for line := range strings.SplitSeq(string(out), "\n") {
		if show(line) {
			t.Log(strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "no tests to run") {
		t.Fatalf("%q name no test of this package", args)
	}
}
