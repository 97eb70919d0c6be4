package standby

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

// roomyFS is a file system whose room the test says.
type roomyFS struct {
	vfs.FS

	left atomic.Uint64 // bytes; 0: there is plenty
}

func (r *roomyFS) Free(string) (free, total uint64, err error) {
	if left := r.left.Load(); left > 0 {
		return left, 1 << 40, nil
	}
	return 1 << 39, 1 << 40, nil
}

// newArchivedBaseCluster has one node of a stream whose store needs bases, which trims
// as soon as it may.
func newArchivedBaseCluster(t *testing.T, wait time.Duration) (*cluster, *archived, *node) {
	t.Helper()
	a := newArchived(t, vfs.NewMem())
	c := newClusterWith(t, 1, nil, nil)
	c.bucket, c.archive = a.bucket, quick()
	c.policy = BasePolicy{LookEvery: 20 * time.Millisecond, Keep: 1, TrimExtra: 1, TrimWait: wait, RefreshOff: true}
	v := &c.gate.view.Streams[0]
	v.Store, v.Members = "postgres", []tidegate.NodeName{"dr1"}
	nd := &node{c: c, name: "dr1", fs: &roomyFS{FS: vfs.OS()}, dir: t.TempDir() + "/data"}
	c.nodes["dr1"] = nd
	if _, err := Format(nd.fs, nd.dir, "dr1"); err != nil {
		t.Fatal(err)
	}
	nd.start()
	c.until("dr1 knows the stream", func() bool { return nd.n.stream(theStream) != nil })
	return c, a, nd
}

// fillBehindBase ships a base and six segments of log of which the first two batches alone are
// archived, and renews the base.
func (c *cluster) fillBehindBase(a *archived, nd *node) (*writer, *stream) {
	c.t.Helper()
	w := c.start1()
	w.attach(nd.name)
	w.sealLineage("pg:1:1", "")
	content := noise(100_000)
	w.mustPush(nd.name, 1, content)
	w.sealIn(1, noise(100)) // to the base's end: the node counts for nothing before
	w.mustShip()
	c.archivedTo(2, nd.name)
	a.moods[nd.name].set(errAway, false)
	for range 200 {
		w.sealIn(1, noise(30_000))
	}
	w.mustShip()
	c.until("it knows what is committed", func() bool { s := nd.status(); return s.Err == "" && s.Commit == 202 })
	c.refreshing(nd.name, &service{content: [][]byte{content}, base: snapshot.Base{Start: 3_000_000, End: 3_300_000, Lineage: "pg:1:1"}})
	if err := AskRefresh(vfs.OS(), nd.dir, theStream); err != nil {
		c.t.Fatal(err)
	}
	return w, nd.n.stream(theStream)
}

// The log is kept for an archive that lacks it, as for a node.
func TestTrimmingWaitsForTheArchive(t *testing.T) {
	c, a, nd := newArchivedBaseCluster(t, 100*time.Hour)
	w, s := c.fillBehindBase(a, nd)
	c.until("log is kept for the archive", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.trimmed.For, archivePeer)
	})
	if first := s.log.First(); first != 1 {
		t.Fatalf("trimmed to %s before it was archived", first)
	}
	if !slices.ContainsFunc(nd.status().Findings, func(f local.Finding) bool {
		return f.Name == findingTrim && strings.Contains(f.Text, string(archivePeer))
	}) {
		t.Error("it is not told what the log is kept for")
	}
	a.moods["dr1"].set(nil, false)
	c.until("dr1 is trimmed", func() bool { return s.log.First() > 60 })
	c.archivedTo(202, "dr1")
	a.same(w, 1, 202)
	if st := nd.status().Archive; len(st.Holes) != 0 || nd.finds(findingArchiveHole) {
		t.Errorf("holes: %v", st.Holes)
	}
}

// What the archive was waited for in vain is a hole, which stays.
func TestLogThatWentBeforeItWasArchivedIsAHole(t *testing.T) {
	c, a, nd := newArchivedBaseCluster(t, time.Millisecond)
	w, s := c.fillBehindBase(a, nd)
	c.until("dr1 is trimmed", func() bool { return s.log.First() > 60 })
	c.until("it is told", func() bool { return nd.finds(findingArchiveHole) })
	a.moods["dr1"].set(nil, false)
	w.sealIn(1, noise(100))
	w.mustShip()
	c.archivedTo(203, "dr1")
	want := []archive.Range{{First: 3, Last: s.log.First() - 1}}
	if holes := nd.status().Archive.Holes; !slices.Equal(holes, want) || !nd.finds(findingArchiveHole) {
		t.Errorf("holes %v, want %v", holes, want)
	}
	w.close()
	if err := nd.stop(); err != nil {
		t.Fatal(err)
	}
	nd.start()
	c.until("dr1 serves", func() bool { return nd.n.stream(theStream) != nil })
	c.until("it is told by the next process", func() bool {
		st := nd.status().Archive
		return slices.Equal(st.Holes, want) && nd.finds(findingArchiveHole)
	})
}

// A disk that fills up while the archive is away: log is given up for it before batches
// are refused, and not before that.
func TestLogIsNotKeptForTheArchiveOnAFullDisk(t *testing.T) {
	c, a, nd := newArchivedBaseCluster(t, 100*time.Hour)
	w, s := c.fillBehindBase(a, nd)
	c.until("log is kept for the archive", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.Contains(s.trimmed.For, archivePeer)
	})
	nd.fs.(*roomyFS).left.Store(3) // of which one is the least
	c.until("dr1 is trimmed", func() bool { return s.log.First() > 60 })
	c.until("it is told, and why", func() bool {
		return slices.ContainsFunc(nd.status().Findings, func(f local.Finding) bool {
			return f.Name == findingArchiveHole && strings.Contains(f.Text, "less than 4 bytes were left on the disk")
		})
	})
	w.sealIn(1, noise(100))
	c.committed(w, 203, "dr1") // it goes on taking batches
	a.moods["dr1"].set(nil, false)
	nd.fs.(*roomyFS).left.Store(0)
	c.archivedTo(203, "dr1")
	if holes := nd.status().Archive.Holes; len(holes) != 1 || holes[0].First != 3 || holes[0].Last < 60 || holes[0].Last >= s.log.First() || !nd.finds(findingArchiveHole) {
		t.Errorf("holes %v, the log begins with %s", holes, s.log.First())
	}
}

// A base is in the archive as it is in the node's store, and is read from there alone.
func TestBasesAreMirrored(t *testing.T) {
	c, a, nd := newArchivedBaseCluster(t, 100*time.Hour)
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("pg:1:1", "")
	content := noise(300_000)
	w.mustPush("dr1", 1, content)
	w.sealIn(1, noise(100))
	w.mustShip()
	prefix := archive.Mirror{Node: "dr1", Incarnation: nd.n.Identity().Incarnation}.Prefix(theStream)
	names := func() (list []string) {
		for o, err := range dir.New(a.fs, "/archive").List(t.Context(), prefix, prefix) {
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, strings.TrimPrefix(o.Name, prefix))
		}
		return list
	}
	c.until("the base is archived", func() bool {
		return slices.ContainsFunc(names(), func(s string) bool { return strings.HasSuffix(s, ".base") })
	})
	for _, name := range names() {
		want, err := readFile(nd.fs, filepath.Join(nd.n.stream(theStream).dir, baseDirName, filepath.FromSlash(name)))
		if got := a.get(prefix + name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d, and those of the store; %v", name, len(got), len(want), err)
		}
	}
	c.archivedTo(2, "dr1")
	bases, err := a.open().Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	if len(bases.All) != 1 || len(bases.Faults) != 0 {
		t.Fatalf("bases %v, faults %v", bases.All, bases.Faults)
	}
	r, err := bases.All[0].Store.Reader(bases.All[0].Listed)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got bytes.Buffer
	if err := r.Copy(t.Context(), 0, &got); err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d bytes, %v; want %d", got.Len(), err, len(content))
	}
}
