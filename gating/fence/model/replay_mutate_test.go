//go:build mutate

package model

import (
	"os"
	"os/exec"
	"testing"

	"github.com/tidegate/tidegate/internal/mutate"
)

// TestReplayNoticesBrokenCores breaks the real cores, rule by rule: a comparison
// that goes on agreeing compares nothing.
func TestReplayNoticesBrokenCores(t *testing.T) {
	const variable = "TIDEGATE_TEST_BREAK"
	rules := []mutate.Rule{
		mutate.PromiseOnDisk, mutate.AckAfterSync, mutate.EpochFirst, mutate.AdoptedEpoch, mutate.AdoptQuorum,
		mutate.EpochCheck, mutate.Limbo, mutate.ReadEpoch, mutate.CaughtUp, mutate.FenceQuorum, mutate.ChoiceRecorded,
		mutate.ActivateCompare, mutate.NoAckAfterFence,
	}
	if name := os.Getenv(variable); name != "" {
		for _, r := range rules {
			if r.String() == name {
				mutate.Break(r)
			}
		}
		TestCoresFollowTheModel(t)
		return
	}
	for _, r := range rules {
		t.Run(r.String(), func(t *testing.T) {
			self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReplayNoticesBrokenCores$")
			self.Env = append(os.Environ(), variable+"="+r.String())
			if out, err := self.CombinedOutput(); err == nil {
				t.Errorf("nothing was noticed\n%s", out)
			}
		})
	}
}
