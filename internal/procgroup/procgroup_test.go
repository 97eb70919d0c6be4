package procgroup

import (
	"os/exec"
	"syscall"
	"testing"
)

// TestEndedGroupIsLeftAlone: the number of a process that was reaped may be anybody's.
func TestEndedGroupIsLeftAlone(t *testing.T) {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = Apart()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var g Group
	if err := g.Wait(cmd); err != nil || g.Kill(cmd, syscall.Signal(0)) {
		t.Errorf("signalled after its end, %v", err)
	}
	cmd.Process.Pid = syscall.Getpgrp() // as if its number were this test's by now
	if g.Kill(cmd, syscall.Signal(0)) {
		t.Error("somebody else's group was signalled")
	}
}
