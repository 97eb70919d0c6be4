package standby

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/vfs"
)

// moody is a node's way to a bucket, which can be cut.
type moody struct {
	bucket.Bucket

	mu     sync.Mutex
	down   error         // of every request
	hangs  bool          // requests wait for the end of their context
	asked  int           // requests that met one of both
	calmed chan struct{} // closed when it does not hang any more
}

func (m *moody) set(down error, hangs bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hangs && !hangs {
		close(m.calmed)
	}
	if hangs && !m.hangs {
		m.calmed = make(chan struct{})
	}
	m.down, m.hangs = down, hangs
}

func (m *moody) met() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

func (m *moody) mood(ctx context.Context) error {
	m.mu.Lock()
	down, hangs, calmed := m.down, m.hangs, m.calmed
	if down != nil || hangs {
		m.asked++
	}
	m.mu.Unlock()
	if hangs {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-calmed:
		}
	}
	return down
}

func (m *moody) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (bucket.Object, error) {
	if err := m.mood(ctx); err != nil {
		return bucket.Object{}, err
	}
	return m.Bucket.Put(ctx, name, body, o)
}

func (m *moody) Get(ctx context.Context, name string, off, n int64) (io.ReadCloser, error) {
	if err := m.mood(ctx); err != nil {
		return nil, err
	}
	return m.Bucket.Get(ctx, name, off, n)
}

func (m *moody) Stat(ctx context.Context, name string) (bucket.Object, error) {
	if err := m.mood(ctx); err != nil {
		return bucket.Object{}, err
	}
	return m.Bucket.Stat(ctx, name)
}

var errAway = &tidegate.Error{Op: "ask bucket", Class: tidegate.Transient, Err: errors.New("it is away")}

// quick archives at once. Its lease is long beside what a loaded machine may take.
func quick() archive.Policy {
	return archive.Policy{
		Segment: archive.SegmentMin, Every: 10 * time.Millisecond, Quiet: 10 * time.Millisecond,
		Look: 50 * time.Millisecond, Lease: 2 * time.Second, Late: 100 * time.Hour,
	}
}

// archived gives the nodes of a cluster that has not started any an archive.
type archived struct {
	t     *testing.T
	fs    vfs.FS
	moods map[tidegate.NodeName]*moody
}

func newArchived(t *testing.T, fs vfs.FS) *archived {
	t.Helper()
	if err := fs.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	return &archived{t: t, fs: fs, moods: map[tidegate.NodeName]*moody{}}
}

// bucket is a node's way to it; each has a driver of its own, as processes have.
func (a *archived) bucket(name tidegate.NodeName) bucket.Bucket {
	m := a.moods[name]
	if m == nil {
		m = &moody{}
		a.moods[name] = m
	}
	m.Bucket = dir.New(a.fs, "/archive")
	return m
}

// newArchivedCluster has nodes with one archive.
func newArchivedCluster(t *testing.T, w int, names ...tidegate.NodeName) (*cluster, *archived) {
	t.Helper()
	a := newArchived(t, vfs.NewMem())
	c := newCluster(t, w, nil)
	c.bucket, c.archive = a.bucket, quick()
	c.gate.view.Streams[0].Members = names
	for _, name := range names {
		nd := &node{c: c, name: name, fs: vfs.OS(), dir: t.TempDir() + "/data"}
		c.nodes[name] = nd
		if _, err := Format(nd.fs, nd.dir, name); err != nil {
			t.Fatal(err)
		}
		nd.start()
	}
	for _, nd := range c.nodes {
		c.until(string(nd.name)+" knows the stream", func() bool { return nd.n.stream(theStream) != nil })
	}
	return c, a
}

// segments lists what is there, by first seq.
func (a *archived) segments() (list []archive.Segment) {
	a.t.Helper()
	prefix := archive.LogPrefix(theStream)
	for o, err := range dir.New(a.fs, "/archive").List(a.t.Context(), prefix, prefix) {
		if err != nil {
			a.t.Fatal(err)
		}
		s, err := archive.ParseSegment(theStream, o.Name)
		if err != nil {
			a.t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

func (a *archived) get(name string) []byte {
	a.t.Helper()
	r, err := dir.New(a.fs, "/archive").Get(a.t.Context(), name, 0, -1)
	if err != nil {
		a.t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		a.t.Fatal(err)
	}
	return b
}

// same checks that every segment is the writer's batches byte for byte, but for those
// of epochs below since, and that together they are all of 1 to upTo and no more.
func (a *archived) same(w *writer, since tidegate.Epoch, upTo tidegate.Seq) {
	a.t.Helper()
	var cover archive.Coverage
	for _, s := range a.segments() {
		if s.Epoch < since {
			continue
		}
		if int(s.Last) > len(w.log) {
			a.t.Fatalf("segment %s: the log ends at %d", s, len(w.log))
		}
		if got, want := a.get(s.Name(theStream)), bytes.Join(w.log[s.First-1:s.Last], nil); !bytes.Equal(got, want) {
			a.t.Errorf("segment %s: %d bytes, want %d, and those of the log", s, len(got), len(want))
		}
		if chain := batch.ChainOf(w.log[s.Last-1]); s.Chain != chain {
			a.t.Errorf("segment %s ends with chain %s, want %s", s, s.Chain, chain)
		}
		cover.Add(archive.Range{First: s.First, Last: s.Last})
	}
	if runs := cover.Runs(); !slices.Equal(runs, []archive.Range{{First: 1, Last: upTo}}) {
		a.t.Errorf("archived are %v, want 1 to %d", runs, upTo)
	}
	next := tidegate.Seq(1)
	for b, err := range a.open().Batches(a.t.Context(), 1) {
		if err != nil {
			a.t.Fatalf("read from the archive: %v", err)
		}
		if b.Seq != next || !bytes.Equal(b.Sealed, w.log[b.Seq-1]) {
			a.t.Fatalf("read as batch %d: %d bytes of batch %d", next, len(b.Sealed), b.Seq)
		}
		next++
	}
	if next != upTo+1 {
		a.t.Errorf("read to %d, want %d", next-1, upTo)
	}
}

// open reads the stream as who has the bucket alone does.
func (a *archived) open() *archive.Stream {
	a.t.Helper()
	r, err := archive.OpenReader(a.t.Context(), dir.New(a.fs, "/archive"))
	if err != nil {
		a.t.Fatal(err)
	}
	list, _, err := r.Streams(a.t.Context())
	if err != nil || len(list) != 1 || list[0].Stream != theStream {
		a.t.Fatalf("streams %v, %v", list, err)
	}
	s, err := r.Open(a.t.Context(), list[0])
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

// archivedTo waits until a node knows that the archive has everything up to seq.
func (c *cluster) archivedTo(seq tidegate.Seq, names ...tidegate.NodeName) {
	c.t.Helper()
	for _, name := range names {
		c.until(string(name)+" has archived all", func() bool {
			a := c.nodes[name].status().Archive
			return a != nil && a.Archived != nil && *a.Archived == seq && a.Behind != nil && *a.Behind == 0
		})
	}
}

func (nd *node) finds(name string) bool {
	for _, f := range nd.status().Findings {
		if f.Name == name && f.Text != "" && f.Hint != "" {
			return true
		}
	}
	return false
}

func (c *cluster) committed(w *writer, upTo tidegate.Seq, names ...tidegate.NodeName) {
	c.t.Helper()
	w.mustShip()
	for _, name := range names {
		c.until(string(name)+" knows what is committed", func() bool { return c.nodes[name].status().Commit >= upTo })
	}
}

// What is committed arrives in the archive as it was sealed, heartbeats too, and what
// was archived is not archived again by the next process.
func TestArchiveHasWhatIsCommitted(t *testing.T) {
	c, a := newArchivedCluster(t, 1, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(20, 1000)
	w.sealOne(batch.KindHeartbeat, 0, nil)
	w.seal(1, 200_000) // more than a segment by itself
	w.mustShip()
	c.archivedTo(22, "dr1")
	a.same(w, 1, 22)
	info, err := archive.ParseStream(theStream, a.get(archive.StreamName(theStream)))
	if err != nil || info.Service != "ledger" || info.Name != "main" || info.Store != storeJournal {
		t.Errorf("stream.json: %+v, %v", info, err)
	}
	before := len(a.segments())
	w.close()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	if who, err := archive.ParseArchivist(theStream, a.get(archive.ArchivistName(theStream))); err != nil || !who.Released || who.Node != "dr1" {
		t.Errorf("a node that has stopped leaves %+v, %v", who, err)
	}
	c.nodes["dr1"].start()
	c.until("dr1 serves", func() bool { return c.nodes["dr1"].n.stream(theStream) != nil })
	w.attach("dr1")
	w.seal(3, 100)
	w.mustShip()
	c.archivedTo(25, "dr1")
	a.same(w, 1, 25)
	list := a.segments()
	for i, s := range list[1:] {
		if s.First != list[i].Last+1 {
			t.Errorf("segment %s follows %s", s, list[i])
		}
	}
	if len(list) <= before {
		t.Errorf("%d segments, %d before the restart", len(list), before)
	}
}

// A bucket that is away or hangs holds nothing up but itself; it is told of, and it
// catches up.
func TestAcknowledgementsDoNotWaitForTheArchive(t *testing.T) {
	for name, mood := range map[string]func(*moody){
		"away":  func(m *moody) { m.set(errAway, false) },
		"hangs": func(m *moody) { m.set(nil, true) },
		"full": func(m *moody) {
			m.set(&tidegate.Error{Op: "put object", Class: tidegate.Misuse, Hint: "make room", Err: tidegate.ErrFull}, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, a := newArchivedCluster(t, 1, "dr1")
			mood(a.moods["dr1"])
			w := c.start1()
			w.attach("dr1")
			w.seal(50, 10_000)
			c.committed(w, 50, "dr1")
			c.until("the bucket was asked", func() bool { return a.moods["dr1"].met() > 0 })
			if st := c.nodes["dr1"].status().Archive; st.Archived != nil || st.Behind != nil || !st.LastSuccess.IsZero() {
				t.Errorf("nothing can be known of it, told is %+v", st)
			}
			if name != "hangs" {
				c.until("it is told", func() bool {
					return c.nodes["dr1"].finds(findingArchiveUnreachable) && c.nodes["dr1"].status().Archive.Err != ""
				})
			}
			w.seal(1, 100)
			c.committed(w, 51, "dr1")
			a.moods["dr1"].set(nil, false)
			c.archivedTo(51, "dr1")
			a.same(w, 1, 51)
			c.until("all is well", func() bool {
				return !c.nodes["dr1"].finds(findingArchiveUnreachable) && c.nodes["dr1"].status().Archive.Err == ""
			})
			if m := streamMessage(c.nodes["dr1"].status(), tidegate.ID{}).GetArchive(); !m.GetArchivist() || m.GetArchivedSeq() != 51 || m.BehindBytes == nil || m.GetBehindBytes() != 0 || m.GetBehind() == nil {
				t.Errorf("with all archived it reports %v", m)
			}
			mood(a.moods["dr1"])
			w.seal(2, 100)
			c.committed(w, 53, "dr1")
			if m := streamMessage(c.nodes["dr1"].status(), tidegate.ID{}).GetArchive(); m.GetArchivedSeq() != 51 || m.GetBehindBytes() != 200 || m.GetBehind() == nil || m.GetLastSuccess() == nil {
				t.Errorf("with two batches to go it reports %v", m)
			}
			// The node ends all the same.
			w.close()
			if err := c.nodes["dr1"].stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// One node uploads, the others know how far it is. When it is cut off another one goes
// on where it was.
func TestAnotherNodeTakesTheArchiveOver(t *testing.T) {
	c, a := newArchivedCluster(t, 2, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 1000)
	w.mustShip()
	c.archivedTo(5, "dr1", "dr2")
	of := func() (who []tidegate.NodeName) {
		for _, nd := range c.sorted() {
			if nd.status().Archive.Archivist {
				who = append(who, nd.name)
			}
		}
		return who
	}
	c.until("one archives", func() bool { return len(of()) == 1 })
	first := of()[0]
	a.moods[first].set(errAway, false)
	w.seal(5, 1000)
	w.mustShip()
	other := tidegate.NodeName("dr1")
	if first == other {
		other = "dr2"
	}
	c.until("the other archives", func() bool { return c.nodes[other].status().Archive.Archivist })
	c.archivedTo(10, other)
	a.moods[first].set(nil, false)
	c.archivedTo(10, first)
	a.same(w, 1, 10)
}

// What was not committed is never archived, whatever becomes of it; and what a failover
// left stands beside what followed.
func TestArchiveHasNoTailThatWasCut(t *testing.T) {
	c, a := newArchivedCluster(t, 2, "dr1", "dr2")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 1000)
	w.mustShip()
	c.archivedTo(5, "dr1", "dr2")
	// One node alone has the next ones: nothing of them is committed.
	if err := c.nodes["dr2"].stop(); err != nil {
		t.Fatal(err)
	}
	w.seal(5, 1000)
	w.mustShip()
	c.until("dr1 has the tail", func() bool { return c.nodes["dr1"].status().Durable.Seq == 10 })
	w.close()
	if err := c.nodes["dr1"].stop(); err != nil {
		t.Fatal(err)
	}
	a.same(w, 1, 5)
	// dr2 goes on without it, and dr1 is cut.
	for _, nd := range c.sorted() {
		nd.start()
		c.until(string(nd.name)+" serves", func() bool { return nd.n.stream(theStream) != nil })
	}
	rec := c.activate(fence.Holder{Node: "app2", Site: "west", UUID: tidegate.NewID()}, "dr2")
	if rec.Head.Seq != 5 {
		t.Fatalf("head %s", rec.Head)
	}
	w2 := c.writer(rec)
	w2.log, w2.pos = slices.Clone(w.log[:5]), 5000
	w2.attach("dr2")
	w2.seal(3, 500)
	w2.mustShip()
	c.archivedTo(8, "dr2")
	c.until("dr1 follows", func() bool { return w2.acked("dr1") == 8 })
	c.archivedTo(8, "dr1")
	a.same(w2, 1, 8)
}

// An archive whose branch contradicts the log is left alone, and told of.
func TestArchiveThatContradictsTheLogIsLeftAlone(t *testing.T) {
	c, a := newArchivedCluster(t, 1, "dr1")
	strange := archive.Segment{First: 1, Last: 3, Epoch: 9, Chain: tidegate.Chain{1}}
	if _, err := dir.New(a.fs, "/archive").Put(t.Context(), strange.Name(theStream), strings.NewReader("something"), bucket.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 1000)
	c.committed(w, 5, "dr1")
	c.until("it is told", func() bool { return c.nodes["dr1"].finds(findingArchiveDiverged) })
	st := c.nodes["dr1"].status().Archive
	if st.Archived != nil || st.Behind != nil || st.Err == "" || st.Archivist {
		t.Errorf("told is %+v", st)
	}
	if list := a.segments(); !slices.Equal(list, []archive.Segment{strange}) {
		t.Errorf("it was written to: %v", list)
	}
	if err := dir.New(a.fs, "/archive").Remove(t.Context(), strange.Name(theStream)); err != nil {
		t.Fatal(err)
	}
	c.archivedTo(5, "dr1") // it is looked at now and then
	a.same(w, 1, 5)
}

// A machine that dies takes nothing from the archive, and leaves nothing in it that is
// not whole: what survives of both goes on together.
func TestArchiveSurvivesPowerCuts(t *testing.T) {
	const name = tidegate.NodeName("dr1")
	for seed := range int64(4) {
		disk, place := vfs.NewMem(), vfs.NewMem()
		a := newArchived(t, place)
		c := newCluster(t, 1, nil)
		c.bucket, c.archive = a.bucket, quick()
		c.gate.view.Streams[0].Members = []tidegate.NodeName{name}
		nd := &node{c: c, name: name, fs: disk, dir: "/data"}
		c.nodes[name] = nd
		if _, err := Format(nd.fs, nd.dir, name); err != nil {
			t.Fatal(err)
		}
		nd.start()
		c.until("it knows the stream", func() bool { return nd.n.stream(theStream) != nil })
		w := c.start1()
		w.attach(name)
		for range 40 {
			w.sealIn(1, noise(20_000))
		}
		w.mustShip()
		c.until("some is archived", func() bool { return int64(len(a.segments())) > seed })
		after, there := disk.CrashClone(seed), place.CrashClone(seed)
		w.close()
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		a.fs, nd.fs = there, after
		nd.start()
		c.until("it serves again", func() bool { return nd.n.stream(theStream) != nil && nd.status().Err == "" })
		w.attach(name)
		w.seal(1, 100)
		w.mustShip()
		c.archivedTo(41, name)
		a.same(w, 1, 41)
		w.close()
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
	}
}
