//go:build !mutate

package fence_test

import (
	"os/exec"
	"testing"
)

// TestStoryTeeth runs TestStoriesNeedTheirRules and TestPairsNeedTheKey, which need a build in which the
// protocol's rules can be broken. That build is never the one that ships.
func TestStoryTeeth(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another test binary")
	}
	gotool, err := exec.LookPath("go")
	if err != nil {
		t.Fatal("no go command to build the other test binary with: put it on the PATH")
	}
	if out, err := exec.Command(gotool, "test", "-tags", "mutate", "-run", "TestStoriesNeedTheirRules|TestPairsNeedTheKey", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
