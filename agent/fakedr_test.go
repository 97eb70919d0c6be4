package agent

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/shipper"
)

// dr is the log of all standby nodes: a fan-out that takes no time.
type dr struct {
	stream tidegate.StreamID

	mu      sync.Mutex
	sealed  [][]byte
	headers []batch.Header
	promise fence.Promise
	commit  tidegate.Seq
	stamp   uint64
	deaf    bool // takes nothing in and acknowledges nothing
	mute    bool // takes everything in and acknowledges nothing
	seeding bool // has no base yet: what is stored counts for nothing
	lends   bool // grants node leases
	lent    int
	applied tidegate.Seq
	warm    tidegate.Position // what warm copies have applied
	asked   string            // of the source, by them
	nodes   map[tidegate.NodeName]*drNode
	changed chan struct{} // closed and replaced at every change
}

type drNode struct {
	member fence.Member
	addr   string
	stop   context.CancelFunc
	done   chan struct{}
}

func (d *dr) shout() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *dr) end() tidegate.LogPos {
	if len(d.headers) == 0 {
		return tidegate.LogPos{}
	}
	return d.headers[len(d.headers)-1].Pos()
}

// adopt binds the nodes to a new epoch and returns the head it begins after.
func (d *dr) adopt(p fence.Promise) tidegate.LogPos {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.promise = p
	d.shout()
	return d.end()
}

func (d *dr) fencedRefusal() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := shipper.Refuse(shipper.CodeFenced, "promised %s", d.promise)
	r.Promise = d.promise
	return r
}

func (d *dr) setDeaf(deaf bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deaf = deaf
	d.shout()
}

// seal appends a batch that another site's writer would have sealed.
func (d *dr) seal(t testing.TB, first tidegate.Position, payload []byte) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	end := d.end()
	sealed, h, err := batch.NewSealer(batch.CodecSnappy).Seal(nil, batch.Header{
		Kind: batch.KindData, Stream: d.stream, Epoch: d.promise.Epoch, Seq: end.Seq + 1, First: first,
		Next: first + tidegate.Position(len(payload)), Records: 1, Head: first + tidegate.Position(len(payload)), Generation: 1,
	}, end.Chain, payload)
	if err != nil {
		t.Fatal(err)
	}
	d.sealed, d.headers = append(d.sealed, sealed), append(d.headers, h)
	d.shout()
}

func (d *dr) take(sealed []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, err := batch.Verify(sealed, d.end().Chain)
	if err != nil {
		return err
	}
	if h.Epoch != d.promise.Epoch {
		return shipper.Refuse(shipper.CodeFenced, "promised %s", d.promise)
	}
	if h.Seq != d.end().Seq+1 {
		return shipper.Refuse(shipper.CodeGap, "batch %s after %s", h.Seq, d.end().Seq)
	}
	d.sealed, d.headers = append(d.sealed, bytes.Clone(sealed)), append(d.headers, h)
	d.shout()
	return nil
}

func (d *dr) acks() (list []fence.Ack) {
	d.mu.Lock()
	defer d.mu.Unlock()
	end := d.end()
	for _, n := range d.nodes {
		d.stamp++
		counted := end
		if d.seeding {
			counted = tidegate.LogPos{}
		}
		list = append(list, fence.Ack{
			Node: n.member.Node, Incarnation: n.member.Incarnation, Epoch: d.promise.Epoch,
			Received: end.Seq, Durable: counted.Seq, Stored: end.Seq, Chain: counted.Chain, Stamp: d.stamp, Applied: d.appliedSeq(), AppliedAt: d.warm,
		})
	}
	return list
}

// appliedSeq is the batch that warm copies have applied; they have all of it, or what
// a test says. mu is held.
func (d *dr) appliedSeq() tidegate.Seq {
	if d.warm > 0 {
		return d.end().Seq
	}
	return d.applied
}

// content opens every data batch and returns the source's bytes, having
// checked that they follow each other.
func (d *dr) content(t testing.TB) []byte {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []byte
	var o batch.Opener
	for i, sealed := range d.sealed {
		h, payload, err := o.Open(nil, sealed)
		if err != nil {
			t.Fatal(err)
		}
		if h.Kind != batch.KindData {
			continue
		}
		if int(h.First) != len(all) {
			t.Fatalf("batch %d begins at %s, the content so far ends at %x", i+1, h.First, len(all))
		}
		all = append(all, payload...)
	}
	return all
}

// wait blocks until ok holds.
func (d *dr) wait(t testing.TB, what string, ok func(*dr) bool) {
	t.Helper()
	deadline := time.After(patient)
	for {
		d.mu.Lock()
		ch, done := d.changed, ok(d)
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ch:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func (w *world) startNode(name tidegate.NodeName) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	cred := w.credentials("west", tidegate.RoleStandby, string(name))
	srv, err := shipper.NewServer(shipper.ServerConfig{
		TLS: cred.ServerTLS(), Node: name, Clock: clock.System(), Log: slog.New(slog.DiscardHandler),
	}, &acceptor{d: w.log, name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	n := &drNode{member: fence.Member{Node: name, Incarnation: tidegate.NewID()}, addr: ln.Addr().String(), stop: cancel, done: make(chan struct{})}
	w.log.nodes[name] = n
	w.wg.Go(func() {
		defer close(n.done)
		if err := srv.Serve(ctx, ln); err != nil {
			w.t.Errorf("serve: %v", err)
		}
	})
}

// kill ends a standby node.
func (w *world) kill(name tidegate.NodeName) {
	w.log.mu.Lock()
	n := w.log.nodes[name]
	delete(w.log.nodes, name)
	w.log.mu.Unlock()
	n.stop()
	<-n.done
}

// acceptor is one standby node's end of the ship sessions.
type acceptor struct {
	d    *dr
	name tidegate.NodeName
}

func (a *acceptor) Attach(ctx context.Context, _ tidegate.Identity, at shipper.Attach, conn *shipper.ServerConn) error {
	d := a.d
	d.mu.Lock()
	n := d.nodes[a.name]
	if n == nil {
		d.mu.Unlock()
		return tidegate.ErrStopped
	}
	if at.As == shipper.AsWriter && (at.Epoch != d.promise.Epoch || at.Holder != d.promise.Holder) {
		r := shipper.Refuse(shipper.CodeFenced, "promised %s", d.promise)
		r.Promise = d.promise
		d.mu.Unlock()
		return r
	}
	reply := shipper.Attached{
		Node: a.name, Incarnation: n.member.Incarnation, Promise: d.promise, Durable: d.end(), Received: d.end(), Commit: d.commit,
	}
	reply.Adopted = fence.Term{Epoch: d.promise.Epoch, Holder: d.promise.Holder}
	if tail := map[shipper.As]int{shipper.AsWriter: shipper.TailMax, shipper.AsObserver: 1}[at.As]; tail > 0 {
		reply.Tail = append(reply.Tail, d.headers[max(0, len(d.headers)-tail):]...)
	}
	if at.From == 0 {
		at.From = d.end().Seq + 1
	}
	gap := at.From > d.end().Seq+1
	d.mu.Unlock()
	if gap {
		return shipper.Refuse(shipper.CodeGap, "asked from %s", at.From)
	}
	if err := conn.Accept(reply); err != nil {
		return err
	}
	if at.As == shipper.AsObserver {
		return a.observer(ctx, at, conn)
	}
	return a.writer(ctx, at, conn)
}

func (a *acceptor) writer(ctx context.Context, at shipper.Attach, conn *shipper.ServerConn) error {
	// A fence ends the session at once, with its reason.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fenced := make(chan struct{})
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		for {
			a.d.mu.Lock()
			ch, over := a.d.changed, a.d.promise.Holder != at.Holder
			a.d.mu.Unlock()
			if over {
				close(fenced)
				conn.Interrupt(a.d.fencedRefusal())
				return
			}
			select {
			case <-ch:
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		ev, err := conn.Recv()
		if err != nil {
			return err
		}
		switch ev := ev.(type) {
		case *shipper.BatchEvent:
			for a.isDeaf() {
				a.d.mu.Lock()
				ch := a.d.changed
				a.d.mu.Unlock()
				select {
				case <-ch:
				case <-ctx.Done():
					return ctx.Err()
				case <-fenced:
					return a.d.fencedRefusal()
				}
			}
			a.d.mu.Lock()
			over := a.d.promise.Holder != at.Holder
			a.d.mu.Unlock()
			if over {
				return a.d.fencedRefusal()
			}
			if err := a.d.take(ev.Sealed); err != nil {
				return err
			}
			if err := conn.Grant(len(ev.Sealed)); err != nil {
				return err
			}
			if err := a.acknowledge(conn); err != nil {
				return err
			}
		case *shipper.BeaconEvent:
			if err := a.lend(conn, ev.Beacon); err != nil {
				return err
			}
			if err := a.acknowledge(conn); err != nil {
				return err
			}
		case *shipper.CommitEvent:
			a.d.mu.Lock()
			a.d.commit = max(a.d.commit, ev.Seq)
			a.d.shout()
			a.d.mu.Unlock()
		}
	}
}

func (a *acceptor) acknowledge(conn *shipper.ServerConn) error {
	a.d.mu.Lock()
	mute := a.d.mute
	a.d.mu.Unlock()
	if !mute {
		for _, ack := range a.d.acks() {
			if err := conn.SendAck(ack); err != nil {
				return err
			}
			a.d.mu.Lock()
			f := shipper.Feedback{Node: ack.Node, Incarnation: ack.Incarnation, Epoch: ack.Epoch, Opaque: a.d.asked}
			a.d.mu.Unlock()
			if f.Opaque == "" {
				continue
			}
			if err := conn.SendFeedback(f); err != nil {
				return err
			}
		}
	}
	return conn.Flush()
}

// lend grants what a beacon asks for, in the name of every node.
func (a *acceptor) lend(conn *shipper.ServerConn, b shipper.Beacon) error {
	d := a.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.Lease.TTL == 0 || !d.lends {
		return nil
	}
	d.lent++
	d.shout()
	for _, n := range d.nodes {
		err := conn.SendLeaseGrant(shipper.LeaseGrant{
			Node: n.member.Node, Incarnation: n.member.Incarnation, Epoch: b.Epoch, TTL: b.Lease.TTL, Seqno: b.Lease.Seqno,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// is sets one of the faults.
func (d *dr) is(fault *bool, on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*fault = on
	d.shout()
}

func (a *acceptor) isDeaf() bool {
	a.d.mu.Lock()
	defer a.d.mu.Unlock()
	return a.d.deaf
}

func (a *acceptor) observer(ctx context.Context, at shipper.Attach, conn *shipper.ServerConn) error {
	ctx, cancel := context.WithCancel(ctx)
	var recv sync.WaitGroup
	defer recv.Wait()
	defer conn.Interrupt(net.ErrClosed)
	defer cancel()
	recv.Go(func() {
		defer cancel()
		for {
			if _, err := conn.Recv(); err != nil {
				return
			}
		}
	})
	for next := at.From; ; {
		a.d.mu.Lock()
		ch, list := a.d.changed, a.d.sealed
		a.d.mu.Unlock()
		for ; int(next) <= len(list); next++ {
			if err := conn.SendHeader(list[next-1][:batch.HeaderSize]); err != nil {
				return err
			}
		}
		if err := conn.Flush(); err != nil {
			return err
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return net.ErrClosed
		}
	}
}
