package standby

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/snapshot"
)

// tally is a service whose state is every payload that it applied.
type tally struct {
	mu       sync.Mutex
	applied  tidegate.Position
	sum      [sha256.Size]byte // of the sum before the last payload, and of that
	payloads []byte
	records  int // that it was handed
	restored int // bytes that it was given
	promoted tidegate.Epoch
}

func (y *tally) State() (tidegate.Position, tidegate.Digest) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.applied, tidegate.Digest(y.sum[:16])
}

func (y *tally) Apply(r journal.Record) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	if r.First < y.applied {
		return fmt.Errorf("record at %s again", r.First)
	}
	y.sum = sha256.Sum256(append(y.sum[:], r.Payload...))
	y.payloads, y.applied = append(y.payloads, r.Payload...), r.Next
	y.records++
	return nil
}

func (y *tally) Promote(_ context.Context, e tidegate.Epoch, _ tidegate.Position) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.promoted = e
	return nil
}

func (y *tally) Fenced(tidegate.Epoch) {}

// counts returns how many records it was handed, and how many bytes it was given.
func (y *tally) counts() (records, restored int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.records, y.restored
}

// counter is a tally that can write its state down.
type counter struct{ tally }

func (y *counter) Snapshot() (io.WriterTo, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return bytes.NewReader(slices.Concat(y.sum[:], y.payloads)), nil
}

func (y *counter) Restore(_ context.Context, at tidegate.Position, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil || len(b) < len(y.sum) {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.sum = [sha256.Size]byte(b)
	y.payloads, y.applied, y.restored = b[len(y.sum):], at, len(b)
	return nil
}

// warm is a service that follows beside a node.
type warm struct {
	c    *cluster
	dir  string
	j    *journal.Journal
	svc  journal.Service
	stop func() // ends it, as a kill would, as far as the service knows
}

// follow runs a service beside a node, on the journal in dir.
func (c *cluster) follow(node tidegate.NodeName, dir string, svc journal.Service) *warm {
	c.t.Helper()
	j, err := journal.Open(dir, journal.Config{
		Service: "ledger", Stream: "main", StandbySocket: local.SocketPath(c.nodes[node].run, local.DaemonStandby, "ledger", "main"),
		ProgressEvery: 20 * time.Millisecond, SyncEvery: 20 * time.Millisecond,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx, svc) }() // owned by stop; ends with ctx
	w := &warm{c: c, dir: dir, j: j, svc: svc}
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, j.Close()); err != nil {
			c.t.Errorf("service beside %s: %v", node, err)
		}
	})
	c.t.Cleanup(w.stop)
	return w
}

// newStateCluster has nodes of a journal, each with sockets of its own.
func newStateCluster(t *testing.T, p BasePolicy, names ...tidegate.NodeName) *cluster {
	t.Helper()
	c := newClusterWith(t, 1, nil, nil)
	c.policy = p
	c.gate.view.Streams[0].Members = names
	for _, name := range names {
		nd := &node{c: c, name: name, fs: vfs.OS(), dir: filepath.Join(t.TempDir(), "data"), run: shortRun(t)}
		c.nodes[name] = nd
		if _, err := Format(nd.fs, nd.dir, name); err != nil {
			t.Fatal(err)
		}
		nd.start()
	}
	for _, nd := range c.nodes {
		c.until(string(nd.name)+" knows the stream", func() bool { return nd.n.stream(theStream) != nil })
	}
	return c
}

// grow appends records to the source's journal and ships them.
func (w *writer) grow(b *books, records, size int) {
	w.c.t.Helper()
	for range records {
		n := b.j.Records()
		payload := noise(size) // does not compress, and no two are alike
		binary.LittleEndian.PutUint64(payload, n)
		if _, err := b.j.Submit(b.t.Context(), payload, time.Unix(int64(n), 0)); err != nil {
			b.t.Fatal(err)
		}
	}
	b.write()
	w.sealFrom(b)
	w.mustShip()
}

// applies waits until a service has applied everything that the source has.
func (c *cluster) applies(what string, svc journal.Service, b *books, want journal.Service) {
	c.t.Helper()
	c.until(what, func() bool {
		at, _ := svc.State()
		to, _ := want.State()
		return at == b.j.End() && to == at
	})
	_, got := svc.State()
	if _, digest := want.State(); got != digest {
		c.t.Fatalf("%s: its digest is %s, want %s", what, got, digest)
	}
}

var statePolicy = BasePolicy{LookEvery: 20 * time.Millisecond, RefreshLog: 512 << 10, Keep: 1, TrimExtra: 1, TrimWait: time.Hour}

// The log of a journal goes behind the states that a warm service wrote down. A node
// with an empty disk begins at such a base, and so does a service with an empty
// journal beside it, while the stream flows; it goes on from there after a restart, and is
// promoted.
func TestJournalGoesOnFromState(t *testing.T) {
	c := newStateCluster(t, statePolicy, "dr1", "dr2")
	src := newBooks(t)
	w := c.start1()
	w.attach("dr1")
	w.sealLineage(src.j.Lineage(), "")
	first := &counter{}
	c.follow("dr1", filepath.Join(t.TempDir(), "journal"), first)
	w.grow(src, 100, 30_000)
	c.applies("dr1 applies", first, src, first)
	c.until("both hold a base, and log has gone", func() bool {
		return len(c.starts("dr1")) > 0 && len(c.starts("dr2")) > 0 &&
			c.nodes["dr1"].n.stream(theStream).log.First() > 1 && c.nodes["dr2"].n.stream(theStream).log.First() > 1
	})
	for _, name := range []tidegate.NodeName{"dr1", "dr2"} {
		for _, b := range (Bases{c.nodes[name].n.stream(theStream)}).Bases() {
			if of := b.Attrs[snapshot.AttrEpoch]; of != "1" {
				t.Errorf("base at %s on %s says that it is of epoch %q", b.Start, name, of)
			}
		}
	}

	c.wipe("dr2")
	c.until("dr2 is back behind a base", func() bool {
		s := c.nodes["dr2"].n.stream(theStream)
		return s != nil && s.fault == nil && s.log.First() > 1 && c.nodes["dr2"].status().Durable.Seq == tidegate.Seq(len(w.log))
	})
	second := &counter{}
	dir := filepath.Join(t.TempDir(), "journal")
	there := c.follow("dr2", dir, second)
	w.grow(src, 3, 1000)
	c.applies("dr2 applies, from a base on", second, src, first)
	if _, restored := second.counts(); restored == 0 || there.j.First() == 0 || there.j.Lineage() != src.j.Lineage() {
		t.Errorf("restored %d bytes, journal begins at %s, is %s", restored, there.j.First(), there.j.Lineage())
	}

	there.stop()
	w.grow(src, 3, 1000)
	again := &counter{}
	there = c.follow("dr2", dir, again)
	c.applies("dr2 applies after a restart", again, src, first)
	if records, restored := again.counts(); restored == 0 || records >= 100 {
		t.Errorf("restored %d bytes and applied %d records", restored, records)
	}

	holder := fence.Holder{Node: "dr2", Site: "west", UUID: tidegate.NewID()}
	rec := c.activate(holder)
	done, err := c.nodes["dr2"].n.Promote(c.ctx(), fence.PromoteRequest{Stream: theStream, Epoch: rec.Epoch, Holder: holder.UUID, Head: rec.Head}, nil)
	if err != nil || !done.Done {
		t.Fatalf("promote: %+v, %v", done, err)
	}
	if _, err := there.j.Append(c.ctx(), []byte("west"), time.Unix(1, 0)); err != nil {
		t.Error(err)
	}
}

// A service that keeps its state to itself is fed as ever, and nothing is trimmed; one
// that comes with nothing beside a log that was trimmed says what it needs.
func TestServiceWithoutSnapshots(t *testing.T) {
	c := newStateCluster(t, statePolicy, "dr1")
	src := newBooks(t)
	w := c.start1()
	w.attach("dr1")
	w.sealLineage(src.j.Lineage(), "")
	plain := &tally{}
	beside := c.follow("dr1", filepath.Join(t.TempDir(), "journal"), plain)
	w.grow(src, 120, 30_000)
	c.applies("it applies", plain, src, plain)
	nd := c.nodes["dr1"]
	if err := AskRefresh(nd.fs, nd.dir, theStream); err != nil {
		t.Fatal(err)
	}
	finds := func(name string) func() bool {
		return func() bool {
			return slices.ContainsFunc(nd.status().Findings, func(f local.Finding) bool { return f.Name == name })
		}
	}
	c.until("it says that it cannot", finds(findingRefresh))
	if s := nd.n.stream(theStream); s.log.First() != 1 || len(c.starts("dr1")) > 0 {
		t.Errorf("log begins with %s, bases at %v", s.log.First(), c.starts("dr1"))
	}
	beside.stop()

	able := &counter{}
	beside = c.follow("dr1", filepath.Join(t.TempDir(), "journal"), able)
	c.applies("another applies", able, src, plain)
	c.until("log has gone", func() bool { return nd.n.stream(theStream).log.First() > 1 })
	beside.stop()
	c.follow("dr1", filepath.Join(t.TempDir(), "journal"), &tally{})
	c.until("it needs a snapshot", finds(findingNeeds))
}

// A warm service is given nothing that is not of its journal: what is damaged on its
// disk is passed over for what was there before.
func TestDamagedStateIsPassedOver(t *testing.T) {
	p := BasePolicy{LookEvery: 20 * time.Millisecond, RefreshOff: true, TrimOff: true}
	c := newStateCluster(t, p, "dr1")
	src := newBooks(t)
	w := c.start1()
	w.attach("dr1")
	w.sealLineage(src.j.Lineage(), "")
	dir := filepath.Join(t.TempDir(), "journal")
	svc := &counter{}
	beside := c.follow("dr1", dir, svc)
	for want := 1; want <= 2; want++ {
		w.grow(src, 30, 30_000)
		c.applies("it applies", svc, src, svc)
		nd := c.nodes["dr1"]
		if err := AskRefresh(nd.fs, nd.dir, theStream); err != nil {
			t.Fatal(err)
		}
		c.until("a base is taken", func() bool { s := c.starts("dr1"); return len(s) >= want && s[len(s)-1] == src.j.End() })
	}
	beside.stop()
	names, err := filepath.Glob(filepath.Join(dir, "snapshots", "*.state"))
	if err != nil || len(names) != 2 {
		t.Fatalf("%v, %v", names, err)
	}
	raw, err := os.ReadFile(names[1])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2]++
	if err := os.WriteFile(names[1], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	again := &counter{}
	c.follow("dr1", dir, again)
	c.applies("it applies again", again, src, svc)
	if records, restored := again.counts(); restored == 0 || records < 30 {
		t.Errorf("restored %d bytes and applied %d records", restored, records)
	}
}
