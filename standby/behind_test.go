package standby

import (
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
)

// A log that begins behind batches which nobody keeps goes on from a base of its own
// history only, and from none that needs what is gone.
func TestCoverIsOfTheLogsHistory(t *testing.T) {
	const at = "pg:1:1+2@0000000000001000"
	begin := shipper.Begin{Before: tidegate.LogPos{Seq: 70}, Position: 0x4000, Generation: 2, Opened: 5, Lineage: at}
	base := snapshot.Info{Generation: 2, Opened: 5, Base: snapshot.Base{Start: 0x4000, End: 0x5000, Lineage: at}}
	all := func(*snapshot.Listed) bool { return true }
	for _, c := range []struct {
		name   string
		change func(*snapshot.Info)
		want   bool
		later  bool // of a later generation, which the log may come to
	}{
		{"of the same history", func(*snapshot.Info) {}, true, false},
		{"forked behind the beginning", func(b *snapshot.Info) { b.Lineage += "+3@0000000000004800" }, true, false},
		{"forked at the beginning", func(b *snapshot.Info) { b.Lineage += "+3@0000000000004000" }, true, false},
		{"forked before, where the log went on", func(b *snapshot.Info) { b.Lineage += "+3@0000000000003fff" }, false, false},
		{"went on where the log has forked", func(b *snapshot.Info) { b.Lineage = "pg:1:1" }, false, false},
		{"forked elsewhere", func(b *snapshot.Info) { b.Lineage = "pg:1:1+2@0000000000001008" }, false, false},
		{"another timeline at the same place", func(b *snapshot.Info) { b.Lineage = "pg:1:1+3@0000000000001000" }, false, false},
		{"of another system", func(b *snapshot.Info) { b.Lineage = "pg:12:1+2@0000000000001000" }, false, false},
		{"of a history that nobody can read", func(b *snapshot.Info) { b.Lineage += "+x" }, false, false},
		{"nobody said of which", func(b *snapshot.Info) { b.Lineage = "" }, false, false},
		{"begins before the log", func(b *snapshot.Info) { b.Start = 0x3fff }, false, false},
		{"opened by another epoch", func(b *snapshot.Info) { b.Opened = 4 }, false, false},
		{"of the generation before", func(b *snapshot.Info) { b.Generation = 1 }, false, false},
		{"of the next generation", func(b *snapshot.Info) { b.Generation = 3 }, false, true},
	} {
		l := snapshot.Listed{Info: base}
		c.change(&l.Info)
		held := []snapshot.Listed{l}
		if got := (&bases{held: held}).covers(begin); got != c.want && got != c.later {
			t.Errorf("%s: covers: %v", c.name, got)
		}
		b := &bases{held: held, want: begin}
		if got := b.wanting(); got == (c.want || c.later) {
			t.Errorf("%s: wanting: %v", c.name, got)
		}
		if to, got := wholeAt(held, span{generation: 2, opened: 5}, begin, all); got != c.want || got && to != 0x5000 {
			t.Errorf("%s: whole at %s, %v", c.name, to, got)
		}
	}
	// The log begins in generation 2: of the next it has everything.
	next := snapshot.Listed{Info: snapshot.Info{Generation: 3, Opened: 6, Base: snapshot.Base{Start: 10, End: 20, Lineage: "pg:9:1"}}}
	if to, ok := wholeAt([]snapshot.Listed{next}, span{generation: 3, opened: 6}, begin, all); !ok || to != 20 {
		t.Errorf("a generation that is here from its first batch: %s, %v", to, ok)
	}
	// Of two the one that is whole sooner.
	late := snapshot.Listed{Info: base}
	late.Start, late.End = 0x6000, 0x7000
	if to, ok := wholeAt([]snapshot.Listed{late, {Info: base}}, span{generation: 2, opened: 5}, begin, all); !ok || to != 0x5000 {
		t.Errorf("two bases: %s, %v", to, ok)
	}
}

// A base and a log that does not reach the base's end are no state: until it does, the
// node acknowledges nothing of it, and a fence is told of no more.
func TestBaseCountsOnceTheLogHasReachedItsEnd(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(1, 5)
	w.mustShip()
	w.mustPush("dr1", 1, noise(100)) // it is whole at 10
	w.received("dr1")
	nd := c.nodes["dr1"]
	st := nd.status()
	if want := "seeding: the base of generation 1 is whole at 000000000000000a, the log is durable to 0000000000000005"; st.Durable.Seq != 0 || st.Err != want {
		t.Errorf("durable %s, says %q", st.Durable, st.Err)
	}
	if d := w.durable(); d != 0 {
		t.Errorf("D is %s", d)
	}
	w.seal(1, 5)
	w.mustShip()
	c.until("D reaches the end", func() bool { return w.durable() == 2 })
	if st := nd.status(); st.Durable.Seq != 2 || st.Err != "" {
		t.Errorf("durable %s, says %q", st.Durable, st.Err)
	}
	w.sealIn(2, noise(3)) // to 13
	w.mustShip()
	w.mustPush("dr1", 2, noise(200)) // whole at 10
	c.until("D reaches the end of generation 2", func() bool { return w.durable() == 3 })
	r, err := nd.n.Fence(c.ctx(), fenceAsk(2, tidegate.NewID()))
	if err != nil || r.Durable.Seq != 3 {
		t.Fatalf("fence: %+v, %v", r, err)
	}
}

// What a fence is told of when the first base came before its log did.
func TestFenceIsToldOfNoStateThatIsNone(t *testing.T) {
	c := newBaseCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(1, 5)
	w.mustShip()
	w.mustPush("dr1", 1, noise(100))
	w.received("dr1")
	r, err := c.nodes["dr1"].n.Fence(c.ctx(), fence.FenceRequest{Stream: theStream, Epoch: 2, Holder: tidegate.NewID()})
	if err != nil || r.Refused || r.Durable.Seq != 0 {
		t.Fatalf("fence: %+v, %v", r, err)
	}
}
