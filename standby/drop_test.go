package standby

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/shipper/drop"
)

// newDropCluster has nodes that sessions reach through a bucket, too, and a writer that
// uses no other way.
func newDropCluster(t *testing.T, w int, names ...tidegate.NodeName) (*cluster, *writer) {
	t.Helper()
	c := newCluster(t, w, nil, names...)
	c.drop = dir.New(vfs.OS(), t.TempDir())
	for _, nd := range c.nodes {
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.start()
	}
	for _, nd := range c.nodes {
		c.until(string(nd.name)+" knows the stream", func() bool { return nd.n.stream(theStream) != nil })
	}
	return c, c.byDrop(c.start1())
}

// byDrop makes a writer cross by the archive only.
func (c *cluster) byDrop(w *writer) *writer {
	d := drop.New(c.drop, quickDrop)
	c.t.Cleanup(func() { w.close(); d.Wait() })
	w.connect = func(ctx context.Context, addr string) (net.Conn, error) {
		for _, nd := range c.nodes {
			if nd.n.Identity().Ship == addr {
				return d.Dial(ctx, nd.name)
			}
		}
		return nil, errors.New("no such node")
	}
	return w
}

// What crosses by the archive is taken in, fanned out and acknowledged as if it had come
// live; nothing counts that is not on W disks. A writer that was replaced learns of it the
// same way, and what it still puts there is taken by nobody.
func TestSessionsCrossByTheArchive(t *testing.T) {
	c, w := newDropCluster(t, 2, "dr1", "dr2")
	w.attach("dr1")
	w.seal(20, 1000)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("all durable on two nodes", func() bool { return w.durable() == 20 })
	w.same(20, "dr1", "dr2")

	// With one node there are no two disks, however much lies in the bucket.
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	w.seal(5, 1000)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("stored on one", func() bool { return w.stored("dr1") == 25 })
	if d := w.durable(); d != 20 {
		t.Errorf("durable through %s with one node", d)
	}
	c.nodes["dr2"].start()
	c.until("durable once the other is back", func() bool { return w.durable() == 25 })

	next := c.activate(fence.Holder{Node: "app2", Site: "east", UUID: tidegate.NewID()})
	c.until("the old writer to hear of it", func() bool { return w.lost() != nil })
	r, ok := errors.AsType[*shipper.Refusal](w.lost())
	if !ok || r.Code != shipper.CodeFenced || r.Promise.Epoch != next.Epoch {
		t.Errorf("the session ended with %v, want the promise of epoch %s", w.lost(), next.Epoch)
	}
	if _, _, err := w.dial("dr1"); !errors.Is(err, tidegate.ErrFenced) {
		t.Errorf("the old writer comes again: %v", err)
	}
	if end := c.nodes["dr1"].n.stream(theStream).log.End(); end.Seq != 25 {
		t.Errorf("the log ends at %s", end)
	}

	// The new writer comes live, and takes the place of one that comes by the archive.
	v := c.byDrop(c.writer(next))
	v.chain, v.pos = w.chain, w.pos
	v.attach("dr1")
	v.seal(1, 1000)
	if err := v.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("its first batch", func() bool { return v.durable() == 26 })
	byArchive := v.conn
	v.mu.Lock()
	v.conn = nil // it is not closed: the link may come back while it is in use
	v.mu.Unlock()
	v.connect = nil
	conn, at, err := v.dial("dr1")
	if err != nil || at.Durable.Seq != 26 {
		t.Fatalf("%+v, %v", at, err)
	}
	v.wg.Wait() // the node has ended the other one
	if err := errors.Join(byArchive.Close(), conn.Close()); err != nil {
		t.Error(err)
	}
}
