package standby

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/vfs"
)

// No log goes that a service may lack which is not there now: one that was connected, or
// that has written the stream from this node.
func TestLogIsKeptForAServiceThatIsAway(t *testing.T) {
	for _, what := range []string{"was connected", "wrote the stream", "never was"} {
		t.Run(what, func(t *testing.T) {
			c := newStateCluster(t, BasePolicy{LookEvery: time.Hour}, "dr1")
			nd := c.nodes["dr1"]
			c.register()
			holder := fence.Holder{Node: "app1", Site: "east", UUID: tidegate.NewID()}
			if what == "wrote the stream" {
				holder.Node, holder.Site = "dr1", "west"
			}
			if what == "was connected" {
				c.run = nd.run
				c.library("dr1", nil).close() // before there is anybody to follow
			}
			w := c.writer(c.activate(holder))
			w.attach("dr1")
			w.seal(3, 100)
			w.mustShip()
			w.received("dr1")
			c.until("it is known", func() bool { return nd.n.stream(theStream).hasWarm() == (what != "never was") })
			w.close()
			if err := nd.stop(); err != nil {
				t.Fatal(err)
			}
			nd.start()
			// The stream is written elsewhere by now.
			next := c.writer(c.activate(fence.Holder{Node: "app2", Site: "north", UUID: tidegate.NewID()}))
			next.pos = 300
			next.attach("dr1")
			next.seal(1, 100)
			next.mustShip()
			s := nd.n.stream(theStream)
			c.until("it is committed", func() bool { return nd.status().Commit == 4 })
			f, err := s.trimFacts(t.Context())
			if err != nil || !f.Follows || f.Warm != (what != "never was") || f.Known {
				t.Errorf("%+v, %v", f, err)
			}
			if k, err := s.keepFacts(t.Context()); err != nil || k.Warm != f.Warm {
				t.Errorf("%+v, %v", k, err)
			}
		})
	}
}

// A full disk takes the note away, not the node, and not what it is for.
func TestServiceIsKnownOnAFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	c := newCluster(t, 1, func(tidegate.NodeName) vfs.FS { return mem }, "dr1")
	c.start1()
	s := c.nodes["dr1"].n.stream(theStream)
	v := StreamView{ID: theStream, Record: &fence.EpochRecord{ActiveEpoch: 1, Active: fence.Holder{Node: "dr1", Site: "west"}}}
	noted := func() bool {
		there, err := exists(mem, filepath.Join(s.dir, attendedFile))
		if err != nil {
			t.Fatal(err)
		}
		return there
	}
	mem.SetCapacity(1)
	if err := s.attendSource(v); err != nil || !s.hasWarm() || noted() {
		t.Errorf("%v; known %v, noted %v", err, s.hasWarm(), noted())
	}
	mem.SetCapacity(0)
	if err := s.attendSource(v); err != nil || !noted() {
		t.Errorf("%v; noted %v", err, noted())
	}
}
