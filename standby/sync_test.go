package standby

import (
	"testing"
)

// Whoever comes while others sync or gather must go with a group: the disk is
// asked once for all of them, and nobody waits for a stranger's sync alone.
func TestASyncAloneGivesWay(t *testing.T) {
	var s, other stream
	y := newSyncer()
	y.running.Lock()
	if done, err := y.now(&s, nil); done || err != nil {
		t.Errorf("while a group is being synced: %t, %v, want false", done, err)
	}
	y.running.Unlock()
	y.mark(&other)
	if done, err := y.now(&s, nil); done || err != nil {
		t.Errorf("while a group gathers: %t, %v, want false", done, err)
	}
	if _, gathered := y.take()[&other]; !gathered {
		t.Error("what had gathered is gone")
	}
}
