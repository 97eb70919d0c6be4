package standby

import (
	"bytes"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
)

func limit(t *testing.T, name string) rates.Limit {
	t.Helper()
	for _, l := range rates.For(rates.DaemonStandby) {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("a standby node does not obey %q", name)
	return rates.Limit{}
}

// halt makes a cluster's nodes stand still in one respect; lift lets them go on.
func (c *cluster) halt(t *testing.T, name string, nodes ...tidegate.NodeName) {
	t.Helper()
	if err := rates.Set(vfs.OS(), c.rates, limit(t, name), 0); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		c.until(string(n)+" obeys "+name, func() bool {
			for _, r := range c.nodes[n].n.Status().Rates.Rates {
				if r.Name == name && r.Limit != nil && *r.Limit == 0 {
					return true
				}
			}
			return false
		})
	}
}

func (c *cluster) lift(t *testing.T, name string) {
	t.Helper()
	if err := rates.Lift(vfs.OS(), c.rates, limit(t, name)); err != nil {
		t.Fatal(err)
	}
}

// A node whose operator stops receiving takes what its credit allows and no more,
// keeps its sessions, and goes on when the file is gone.
func TestReceivingObeysItsRate(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1")
	w := c.start1()
	w.attach("dr1")
	c.halt(t, rates.Receive, "dr1")
	const batches, size = 12, 512 << 10 // 6 MiB of noise, where the credit is 4 MiB
	for range batches {
		w.sealOne(batch.KindData, 1, noise(size))
	}
	shipped := make(chan error, 1)
	go func() { shipped <- w.ship() }() // awaited below
	c.until("the credit is used up", func() bool { return w.durable() >= 7 })
	// Several time exchanges go by: the session is alive.
	for began := time.Now(); time.Since(began) < 4*testLimits.KeepaliveEvery; {
		if err := w.lost(); err != nil || w.durable() == batches {
			t.Fatalf("durable %s, session: %v", w.durable(), err)
		}
	}
	m := ReportMessage(c.nodes["dr1"].n.Status(), time.Unix(1, 0))
	if len(m.GetRates()) != 4 || m.GetRates()[0].GetName() != rates.Receive || m.GetRates()[0].Limit == nil || m.GetRates()[1].Limit != nil {
		t.Errorf("reported %v", m.GetRates())
	}
	c.lift(t, rates.Receive)
	c.until("all durable", func() bool { return w.durable() == batches })
	if err := <-shipped; err != nil {
		t.Error(err)
	}
}

// noise does not compress.
func noise(size int) []byte {
	b := make([]byte, size)
	x := uint64(1)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}

// What follows stands still while applying is stopped.
func TestApplyingObeysItsRate(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	w := c.start1()
	w.attach("dr1")
	c.halt(t, rates.Apply, "dr1")
	w.seal(20, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	l := c.library("dr1", nil)
	c.until("durable", func() bool { return w.durable() == 20 })
	c.until("told to follow", func() bool { return len(l.told()) > 0 })
	if got := l.have(); len(got) > 0 {
		t.Errorf("applied %d bytes while stopped", len(got))
	}
	c.lift(t, rates.Apply)
	c.until("applied", func() bool { return bytes.Equal(l.have(), w.raw()) })
}

// A promotion is not held back: until it is over nobody is served.
func TestPromotionIsNotHeldBackByTheRateOfApplying(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	w := c.start1()
	w.attach("dr1")
	c.halt(t, rates.Apply, "dr1")
	w.seal(20, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	l := c.library("dr1", nil)
	c.until("durable", func() bool { return w.durable() == 20 && len(l.told()) > 0 })
	w.close()
	holder := fence.Holder{Node: "dr1", Site: "west", UUID: tidegate.NewID()}
	rec := c.activate(holder)
	done, err := c.nodes["dr1"].n.Promote(c.ctx(), fence.PromoteRequest{Stream: theStream, Epoch: rec.Epoch, Holder: holder.UUID, Head: rec.Head}, nil)
	if err != nil || !done.Done {
		t.Errorf("promoted %+v, %v", done, err)
	}
	if !bytes.Equal(l.have(), w.raw()) {
		t.Error("promoted without all of it")
	}
}

// A node that fell behind copies nothing while copying is stopped.
func TestCopyingObeysItsRate(t *testing.T) {
	c := newCluster(t, 1, nil, "dr1", "dr2")
	c.register()
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	someone := func() fence.Holder { return fence.Holder{Node: "app1", Site: "east", UUID: tidegate.NewID()} }
	w := c.writer(c.activate(someone(), "dr1"))
	w.attach("dr1")
	w.seal(10, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("durable at dr1", func() bool { return w.acked("dr1") == 10 })
	w.close()
	c.activate(someone(), "dr1")
	c.halt(t, rates.Copy)
	c.nodes["dr2"].start() // it obeys from the first moment on
	c.until("somebody waits", func() bool {
		st := c.nodes["dr2"].n.Status().Rates
		return st.Rates[1].Name == rates.Copy && st.Rates[1].Waiting == 1
	})
	if got := c.nodes["dr2"].status().Received.Seq; got != 0 {
		t.Errorf("copied up to %s while stopped", got)
	}
	c.lift(t, rates.Copy)
	c.until("copied", func() bool { return c.nodes["dr2"].status().Durable.Seq == 10 })
}
