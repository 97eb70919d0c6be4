package archive

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/standby/deltalog"
)

var theStream = tidegate.StreamID{0x57, 15: 1}

// hooked is a bucket that calls before with the name of what is to be put.
type hooked struct {
	bucket.Bucket

	put    []string // what was put, in order
	before func(name string)
	after  func(name string) error // an answer that is lost
}

func (h *hooked) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if h.before != nil {
		h.before(name)
	}
	obj, err := h.Bucket.Put(ctx, name, body, o)
	if err == nil {
		h.put = append(h.put, name)
		if h.after != nil {
			err = h.after(name)
		}
	}
	return obj, err
}

// bench is a writer whose steps the test takes, and the log that it archives.
type bench struct {
	t   *testing.T
	w   *Writer
	b   *hooked
	fs  vfs.FS
	clk *clock.Fake
	log *deltalog.Log
	now Standing

	sealer *batch.Sealer
	chains []tidegate.Chain // behind batch i
	sealed [][]byte         // batch i+1
}

func (b *bench) Standing() Standing                                         { return b.now }
func (b *bench) Bases(context.Context) (*snapshot.Store, []snapshot.Listed) { return nil, nil }
func (b *bench) Stored(int64)                                               {}
func (b *bench) Removed(int64)                                              {}
func (b *bench) Failed(tidegate.Class)                                      {}

func newBench(t *testing.T) *bench {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	log, _, err := deltalog.Open(mem, "/log", theStream, deltalog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	b := &bench{
		t: t, b: &hooked{Bucket: dir.New(mem, "/archive")}, fs: mem, clk: clock.NewFake(time.Unix(1000, 0)), log: log,
		sealer: batch.NewSealer(batch.CodecNone), chains: make([]tidegate.Chain, 1),
		now: Standing{Follows: true, Epoch: 5, Start: 1, Info: StreamInfo{Service: "ledger", Name: "main", Store: "journal"}},
	}
	// Segments become due before the claim is renewed, or with it.
	policy := Policy{Every: 30 * time.Second}.SetDefaults()
	b.w = NewWriter(theStream, one, policy, Deps{
		Bucket: b.b, Source: b, Log: log, Buffers: NewBuffers(1), Clock: b.clk, Logger: slog.New(slog.DiscardHandler), Meter: b,
	})
	return b
}

// append makes the log end with batch upTo, of the standing's epoch, durably.
func (b *bench) append(upTo tidegate.Seq) {
	b.t.Helper()
	for seq := tidegate.Seq(len(b.chains)); seq <= upTo; seq++ {
		at := tidegate.Position(100 * (seq - 1))
		h := batch.Header{
			Stream: theStream, Epoch: b.now.Epoch, Generation: 1, Seq: seq, Kind: batch.KindData, Records: 1,
			First: at, Next: at + 100, Head: at + 100, OldestTime: int64(seq), NewestTime: int64(seq),
		}
		sealed, h, err := b.sealer.Seal(nil, h, b.chains[seq-1], bytes.Repeat([]byte{byte(h.Epoch)}, 100))
		if err == nil {
			err = b.log.Append(sealed)
		}
		if err != nil {
			b.t.Fatal(err)
		}
		b.chains, b.sealed = append(b.chains, h.Chain), append(b.sealed, sealed)
	}
	if _, err := b.log.Sync(); err != nil {
		b.t.Fatal(err)
	}
}

// failover cuts the log to a batch, which it has committed, and appends others up to another
// one under the next epoch, of which nothing is committed.
func (b *bench) failover(head, upTo tidegate.Seq) {
	b.t.Helper()
	b.now.Epoch, b.now.Start, b.now.Commit = b.now.Epoch+1, head+1, head
	if _, err := b.log.CutTo(head, "/quarantine", b.now.Epoch, "test", b.clk); err != nil {
		b.t.Fatal(err)
	}
	b.chains, b.sealed = b.chains[:head+1], b.sealed[:head]
	b.append(upTo)
}

// steps takes as many as settle it.
func (b *bench) steps() {
	b.t.Helper()
	for range 6 {
		if _, err := b.w.logStep(b.t.Context()); err != nil {
			b.t.Logf("step: %v", err)
		}
	}
}

// archived checks that the segments are 1 to upTo of the log as it is.
func (b *bench) archived(upTo tidegate.Seq) {
	b.t.Helper()
	var all Coverage
	for o, err := range b.b.List(b.t.Context(), LogPrefix(theStream), LogPrefix(theStream)) {
		if err != nil {
			b.t.Fatal(err)
		}
		s, err := ParseSegment(theStream, o.Name)
		if err != nil {
			b.t.Fatal(err)
		}
		if s.Last > upTo {
			b.t.Fatalf("segment %s is archived, committed is %d", s, upTo)
		}
		got, _, err := bucket.ReadAll(b.t.Context(), b.b, o.Name, 1<<20)
		if err != nil || !bytes.Equal(got, bytes.Join(b.sealed[s.First-1:s.Last], nil)) {
			b.t.Errorf("segment %s: %d bytes, %v; they are not those of the log", s, len(got), err)
		}
		all.Add(Range{s.First, s.Last})
	}
	if !slices.Equal(all.Runs(), []Range{{1, upTo}}) {
		b.t.Errorf("archived are %v, want 1 to %d", all.Runs(), upTo)
	}
}

// What waits to become a segment is looked at again when a failover has cut it: neither
// what came in its place and is not committed goes up, nor does the writer wait for it.
func TestBacklogIsForgottenAtAFailover(t *testing.T) {
	for name, upTo := range map[string]tidegate.Seq{"others came": 100, "nothing came": 95} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.append(100)
			b.now.Commit = 100
			b.steps()
			if b.w.backlog.Last != 100 {
				t.Fatalf("the backlog is %+v", b.w.backlog)
			}
			b.failover(95, upTo)
			b.clk.Advance(b.w.policy.Every)
			b.steps() // what was seen now has not waited yet
			b.clk.Advance(b.w.policy.Every)
			b.steps()
			b.archived(95)
			if len(b.w.Buffers) != 1 {
				t.Error("the buffer is not given back")
			}
		})
	}
}

// A failover may come while the bucket is asked something: what has been read by then
// is not put.
func TestFailoverBetweenLookAndUpload(t *testing.T) {
	b := newBench(t)
	b.append(100)
	b.now.Commit = 100
	b.steps()
	b.clk.Advance(b.w.policy.Every) // both the segment and the claim are due
	failed := false
	b.b.before = func(name string) {
		if name == ArchivistName(theStream) && !failed {
			failed = true
			b.failover(95, 100)
		}
	}
	b.steps()
	if !failed {
		t.Fatal("the claim was not renewed")
	}
	b.clk.Advance(b.w.policy.Every)
	b.steps()
	b.archived(95)
}

// Whatever a node leaves when it dies early, it is told what it is of.
func TestStreamIsDescribedBeforeItIsClaimed(t *testing.T) {
	b := newBench(t)
	b.append(1)
	b.now.Commit = 1
	b.steps()
	described, claimed := slices.Index(b.b.put, StreamName(theStream)), slices.Index(b.b.put, ArchivistName(theStream))
	if described < 0 || claimed < described {
		t.Errorf("put were %q", b.b.put)
	}
}

// The end may come while the claim is being renewed: nobody waits for its term all the same.
func TestClaimIsReleasedInTheMiddleOfARenewal(t *testing.T) {
	b := newBench(t)
	b.append(1)
	b.now.Commit = 1
	b.steps()
	b.clk.Advance(b.w.policy.Look)
	ctx, end := context.WithCancel(t.Context())
	b.b.after = func(name string) error {
		if name != ArchivistName(theStream) {
			return nil
		}
		b.b.after = nil
		end()
		return ctx.Err()
	}
	b.w.Run(ctx)
	if ctx.Err() == nil {
		t.Fatal("the claim was not renewed")
	}
	text, err := b.w.getDocument(t.Context(), ArchivistName(theStream))
	if err != nil {
		t.Fatal(err)
	}
	if who, err := ParseArchivist(theStream, text); err != nil || !who.Released {
		t.Errorf("left is %+v, %v", who, err)
	}
}
