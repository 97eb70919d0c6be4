package stores_test

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores"
)

// The name is in reports and on disks: it never changes.
func TestTailIDIsFrozen(t *testing.T) {
	got := stores.TailID(tidegate.ID{1, 2, 3}, 7, 4096)
	if want := "03cf74d82462cfdce9869208abbbcd32"; got.String() != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got == stores.TailID(tidegate.ID{1, 2, 3}, 8, 4096) || got == stores.TailID(tidegate.ID{1, 2, 3}, 7, 4097) {
		t.Error("another tail has the same name")
	}
}
