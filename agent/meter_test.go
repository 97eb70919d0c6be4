package agent

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// A beacon is dated by what it says of A: the DR side's blind window rests on it.
func TestBeaconIsDatedByTheLibrary(t *testing.T) {
	m := newMeter()
	if b := m.beacon(7); b.AKnown || b.Exposed != -1 || b.Boot != 7 {
		t.Errorf("beacon before anything was heard: %+v", b)
	}
	place := func(records uint64) local.Count {
		return local.Count{Position: tidegate.Position(100 * records), Records: records, Bytes: 100 * records}
	}
	m.library(10, &local.LibraryProgress{L: place(5)})
	m.begin(11, facts{seq: 1, next: place(5).Position, records: 5, bytes: 500})
	m.library(20, &local.LibraryProgress{L: place(9), A: place(8), AKnown: true, T0: 12, Released: 15})
	b := m.beacon(29)
	if !b.AKnown || b.A != place(8).Position || b.D != place(5).Position || b.Exposed != 3 || b.Boot != 20 {
		t.Errorf("beacon %+v, want three records exposed as of 20", b)
	}
	m.lost(30)
	if b := m.beacon(31); b.AKnown || b.Exposed != -1 {
		t.Errorf("beacon without a library: %+v", b)
	}
}
