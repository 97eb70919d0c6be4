package standby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
)

// outcome is what the world was told before the machine crashed.
type outcome struct {
	formatted bool
	member    fence.Member
	acked     tidegate.Seq
	promised  fence.Promise
	reached   int // steps done
}

var errScenario = errors.New("scenario ends early")

// crashLife formats a node, lets it adopt epoch 1, take three batches and
// promise epoch 2, on a file system that may die at any operation. It returns
// what was acknowledged until then.
func crashLife(t *testing.T, c *cluster, fsys vfs.FS) (out outcome) {
	t.Helper()
	if _, err := Format(fsys, "/data", "dr1"); err != nil {
		return out
	}
	out.formatted = true
	c.gate.mu.Lock()
	c.gate.record = fence.EpochRecord{}
	c.gate.mu.Unlock()
	n, end := crashNode(t, c, fsys)
	defer end()
	// wait polls until ok, or until the node has died.
	wait := func(ok func() bool) error {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !ok() {
			select {
			case <-n.stopped:
				return errScenario
			case <-tick.C:
			}
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	holder := fence.Promise{Epoch: 1, Holder: tidegate.NewID()}
	next := fence.Promise{Epoch: 2, Holder: tidegate.NewID()}
	var rec fence.EpochRecord
	for _, step := range []func() error{
		func() error { return wait(func() bool { return n.stream(theStream) != nil }) },
		func() error {
			out.member = n.stream(theStream).status().Member
			cfg := fence.Config{W: 1, Members: []fence.Member{out.member}}
			var err error
			if rec, err = fence.NewRecord(theStream, cfg, fence.GateRecord{State: fence.GateArmed, Mode: tidegate.ModeSync}); err != nil {
				return err
			}
			c.gate.set(rec)
			return wait(func() bool { return !n.stream(theStream).status().Limbo })
		},
		func() error {
			r, err := n.Fence(ctx, fence.FenceRequest{Stream: theStream, Epoch: 1, Holder: holder.Holder})
			if err == nil && !r.Refused {
				out.promised = r.Promise
			}
			return err
		},
		func() error {
			r, err := n.Adopt(ctx, fence.AdoptRequest{Stream: theStream, Epoch: 1, Holder: holder.Holder, Source: "dr1", Reason: fence.ReasonDiverged})
			if err == nil && !r.Adopted {
				err = errScenario
			}
			return err
		},
		func() error {
			acked, err := crashShip(ctx, c, n, holder, out.member)
			out.acked = acked
			return err
		},
		func() error {
			r, err := n.Fence(ctx, fence.FenceRequest{Stream: theStream, Epoch: 2, Holder: next.Holder})
			if err == nil && !r.Refused {
				out.promised = r.Promise
			}
			return err
		},
	} {
		if step() != nil {
			return out
		}
		out.reached++
	}
	return out
}

// crashNode starts a node; end stops it and waits.
func crashNode(t *testing.T, c *cluster, fsys vfs.FS) (n *Standby, end func()) {
	t.Helper()
	n, err := New(Config{
		Node: "dr1", Site: "west", DataDir: "/data", ShipListen: "127.0.0.1:0", APIListen: "127.0.0.1:0",
		Limits: testLimits, FreeBytesMin: 1, RejoinEvery: 2 * time.Millisecond,
	}, Deps{
		FS: fsys, Clock: clock.System(), Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(), Directory: gateOf{c.gate, "dr1"},
		ShipServe: c.serve.ServerTLS(), ShipDial: c.serve.ClientTLS(pki.Expect{}), APIServe: c.serve.ServerTLS(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // owned by end; ends with ctx
		defer close(done)
		if n.Run(ctx) != nil {
			n.stopping.Do(func() { close(n.stopped) }) // it may not have come to serve
		}
	}()
	return n, func() { cancel(); <-done }
}

// crashShip ships three batches and returns how many were acknowledged.
func crashShip(ctx context.Context, c *cluster, n *Standby, p fence.Promise, m fence.Member) (acked tidegate.Seq, err error) {
	w := &writer{c: c, rec: fence.EpochRecord{Epoch: p.Epoch}, sealer: c.sealer}
	w.seal(3, 40)
	d := shipper.Dialer{TLS: c.agent.ClientTLS(pki.Expect{}), Clock: clock.System(), Limits: testLimits}
	conn, _, err := d.Dial(ctx, n.Identity().Ship, shipper.Attach{Stream: theStream, As: shipper.AsWriter, Epoch: p.Epoch, Holder: p.Holder, Members: []fence.Member{m}})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	for _, b := range w.log {
		if err := errors.Join(conn.Send(ctx, b), conn.Flush()); err != nil {
			break // what was acknowledged before is what Recv says
		}
	}
	for acked < 3 {
		ev, err := conn.Recv()
		if err != nil {
			return acked, err
		}
		if a, ok := ev.(*shipper.AckEvent); ok {
			acked = a.Ack.Durable
		}
	}
	return acked, nil
}

// The machine dies at every operation of the file system in turn. Whatever was
// said before holds after: the promise, the acknowledged batches, the identity;
// and the node opens.
func TestCrashAtEveryOperation(t *testing.T) {
	c := newCrashCluster(t)
	for n := int64(0); ; n++ {
		mem := vfs.NewMem()
		fault := vfs.CrashAt(n)
		said := crashLife(t, c, vfs.Inject(mem, fault.Inject))
		after := mem.CrashClone(n)
		if msg := crashCheck(t, c, after, said); msg != "" {
			t.Fatalf("crash at operation %d, after %d steps: %s", n, said.reached, msg)
		}
		if !fault.Fired() {
			if said.reached != 6 || said.acked != 3 {
				t.Fatalf("undisturbed life ended after %d steps with %s acknowledged", said.reached, said.acked)
			}
			t.Logf("%d operations", n)
			return
		}
	}
}

func crashCheck(t *testing.T, c *cluster, fsys vfs.FS, said outcome) string {
	t.Helper()
	if !said.formatted {
		return "" // nobody relies on the directory yet
	}
	f, err := ReadNodeFile(fsys, "/data")
	if err != nil {
		return err.Error()
	}
	if said.reached < 2 {
		return ""
	}
	if f.Incarnation != said.member.Incarnation {
		return "another incarnation of the node"
	}
	n, end := crashNode(t, c, fsys)
	defer end()
	select {
	case <-n.Ready():
	case <-n.stopped:
		return "does not start"
	}
	st := n.stream(theStream).status()
	switch {
	case st.Member != said.member || st.Limbo || st.Err != "":
		return fmt.Sprintf("came back as %s, limbo %v, %s", st.Member, st.Limbo, st.Err)
	case st.Promise.Epoch < said.promised.Epoch, st.Promise.Epoch == said.promised.Epoch && st.Promise != said.promised:
		return fmt.Sprintf("promised %s, came back with %s", said.promised, st.Promise)
	case st.Durable.Seq < said.acked:
		return fmt.Sprintf("acknowledged %s, came back with %s", said.acked, st.Durable)
	}
	return ""
}
