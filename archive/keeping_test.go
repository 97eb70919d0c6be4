package archive_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
)

const oneDay = 24 * time.Hour

// years is an archive of 60 batches, one a day and three to a segment, with bases of
// days 10 to 50. The batches 25 to 27 were never archived.
type years struct {
	*archivetest.Maker

	bases   []snapshot.Listed // by day
	objects map[string][]byte
}

func newYears(t *testing.T) *years {
	t.Helper()
	y := &years{Maker: archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "postgres"), objects: map[string][]byte{}}
	root, from := t.TempDir(), t.TempDir()
	for i := 1; i <= 60; i++ {
		y.Time = int64(i) * int64(oneDay)
		y.Data(t, []byte(strings.Repeat(fmt.Sprint(i%10), 100)), 1, y.Time, y.Time)
		if i%3 == 0 {
			name := y.Segment(t)
			if i == 27 {
				if err := y.B.Remove(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		if i%10 == 0 { // each base has a page of the one before, and three of its own
			for _, name := range []string{"a", "b"} {
				writeFile(t, from+"/"+name, strings.Repeat("same", 3000)+strings.Repeat(fmt.Sprint(i, name), 9000))
			}
			if i < 60 {
				info := snapshot.Info{Stream: archivetest.Stream, Generation: 1, Opened: 1, Taken: y.Time}
				info.Start, info.End = y.At, y.At+150
				y.bases = append(y.bases, archivetest.Base(t, root, info, from))
			}
		}
	}
	y.Mirror(t, root)
	for o, err := range y.B.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		text, _, err := bucket.ReadAll(t.Context(), y.B, o.Name, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		y.objects[o.Name] = text
	}
	return y
}

// copy is the archive in another bucket.
func (y *years) copy(t *testing.T) *cutOff {
	t.Helper()
	mem := vfs.NewMem()
	if err := mem.MkdirAll("/archive"); err != nil {
		t.Fatal(err)
	}
	m := *y.Maker
	m.B = dir.New(mem, "/archive")
	for name, text := range y.objects {
		if _, err := m.B.Put(t.Context(), name, strings.NewReader(string(text)), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return &cutOff{Bucket: m.B, at: math.MaxInt, maker: &m}
}

// cutOff is a bucket that a node reaches up to its n-th change, which is done or not.
type cutOff struct {
	bucket.Bucket

	maker   *archivetest.Maker
	at      int // changes before the cut
	done    bool
	changes int
	locked  string // part of the names that may not go
	put     []string
	before  func(name string) // called with what is to be put; nil: nothing is
	// modified is when the objects were put that are listed; zero: as the bucket says
	modified time.Time
}

func (c *cutOff) List(ctx context.Context, prefix, after string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		for o, err := range c.Bucket.List(ctx, prefix, after) {
			if !c.modified.IsZero() {
				o.Modified = c.modified
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

var errCut = &tidegate.Error{Op: "ask bucket", Class: tidegate.Transient, Err: errors.New("it is cut off")}

func (c *cutOff) change(do func() error) error {
	c.changes++
	if c.changes <= c.at {
		return do()
	}
	if c.changes == c.at+1 && c.done {
		if err := do(); err != nil {
			return err
		}
	}
	return errCut
}

func (c *cutOff) Put(ctx context.Context, name string, body bucket.Body, o bucket.PutOptions) (obj bucket.Object, err error) {
	if c.before != nil {
		c.before(name)
	}
	err = c.change(func() error {
		c.put = append(c.put, name)
		obj, err = c.Bucket.Put(ctx, name, body, o)
		return err
	})
	return obj, err
}

func (c *cutOff) Remove(ctx context.Context, name string) error {
	if c.locked != "" && strings.Contains(name, c.locked) {
		return &tidegate.Error{Op: "remove object", Subject: name, Class: tidegate.Refused, Err: errors.New("it is locked")}
	}
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("it would be tried again after another node has taken over")
	}
	return c.change(func() error { return c.Bucket.Remove(ctx, name) })
}

// names are the objects that are there, but documents.
func (c *cutOff) names(t *testing.T) (list []string) {
	t.Helper()
	for o, err := range c.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(o.Name, ".json") {
			list = append(list, o.Name)
		}
	}
	return list
}

// source is a node that holds bases.
type source struct {
	info   archive.StreamInfo
	store  *snapshot.Store
	listed []snapshot.Listed
	gaps   []tidegate.Gap
}

func (s source) Standing() archive.Standing { return archive.Standing{Info: s.info, Gaps: s.gaps} }
func (s source) Bases(context.Context) (*snapshot.Store, []snapshot.Listed) {
	return s.store, s.listed
}
func (source) Stored(int64)          {}
func (source) Removed(int64)         {}
func (source) Failed(tidegate.Class) {}

// keeper is a writer on the day after the newest batch, that has lost its disk once.
func (c *cutOff) keeper(rule archive.Retention, s source) *archive.Writer {
	return c.keeperOf("dr-1", rule, s, clock.NewFake(time.Unix(0, 0).Add(61*oneDay)))
}

func (c *cutOff) keeperOf(node tidegate.NodeName, rule archive.Retention, s source, clk *clock.Fake) *archive.Writer {
	s.info = c.maker.Info
	policy := archive.Policy{Keep: rule, RemoveEvery: 1}.SetDefaults()
	w := archive.NewWriter(archivetest.Stream, archive.Mirror{Node: node, Incarnation: tidegate.Incarnation{2}}, policy, archive.Deps{
		Bucket: c, Source: s, Buffers: archive.NewBuffers(1), Clock: clk, Logger: slog.New(slog.DiscardHandler), Meter: s,
	})
	w.Hold()
	return w
}

// whole verifies that the archive is one, and that what is to stay can be restored.
func (c *cutOff) whole(t *testing.T, when string, days ...int) *archive.Stream {
	t.Helper()
	s := openStream(t, c.maker)
	bases, err := s.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bases.Close()
	v, err := s.Verify(t.Context(), bases, &archive.VerifyMeter{})
	if err != nil || len(v.Bad) != 1 || !strings.Contains(v.Bad[0].Error(), "batches 25 to 27 were never archived") {
		t.Fatalf("%s: %v, %v", when, v.Bad, err)
	}
	win, err := s.Window(t.Context(), bases, true)
	if err != nil || !slices.Equal(win.Holes, []archive.Hole{{First: 25, Last: 27}}) {
		t.Fatalf("%s: holes %v, %v", when, win.Holes, err)
	}
	for _, day := range days {
		if !slices.ContainsFunc(win.Bases, func(b archive.BaseState) bool {
			return b.Unfit == nil && b.Base.Taken == int64(day)*int64(oneDay)
		}) {
			t.Fatalf("%s: the base of day %d is not there, or of no use: %+v", when, day, win.Bases)
		}
	}
	last := win.Spans[len(win.Spans)-1]
	if last.To.Seq != 60 || !last.Restorable || last.Since.Seq > 42 {
		t.Fatalf("%s: %+v", when, last)
	}
	return s
}

// half keeps what 15 days need, and the newest base of January.
var half = archive.Retention{Window: 15 * oneDay, Keep: archive.Keep{Monthly: 2}}

// TestKeep lets a rule loose on one archive, in copies.
func TestKeep(t *testing.T) {
	y := newYears(t)
	t.Run("cut anywhere", y.cutAnywhere)
	t.Run("locked", y.whileLocked)
	t.Run("not mirrored again", y.notMirroredAgain)
	t.Run("not held", y.notHeld)
	t.Run("after a takeover", y.afterTakeover)
	t.Run("taken over while mirroring", y.takenOver)
	t.Run("packs have gone", y.packsHaveGone)
	t.Run("something cannot be read", y.unreadable)
}

// cutAnywhere: whatever a pass was cut off at, what is listed is whole, and the
// next one comes to the same end.
func (y *years) cutAnywhere(t *testing.T) {
	c := y.copy(t)
	if err := c.keeper(half, source{}).KeepPass(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := c.whole(t, "not cut", 30, 40, 50)
	want := c.names(t)
	all := len(y.objects)
	if got := fmt.Sprint(s.Removed.Log); len(s.Removed.Log) != 2 || s.Removed.Log[0].First != 1 || s.Removed.Log[0].Last != 24 || s.Removed.Log[1].First != 34 || s.Removed.Log[1].Last != 39 || len(want) > all/2+4 {
		t.Errorf("removed are %s, %d objects of %d are left", got, len(want), all)
	}
	if err := second(s.AtSeq(t.Context(), 12)); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("before everything: %v", err)
	}
	if err := second(s.AtSeq(t.Context(), 36)); !errors.Is(err, tidegate.ErrGap) || !strings.Contains(err.Error(), "its rule has let them go") {
		t.Errorf("between island and log: %v", err)
	}
	for at := range c.changes {
		for _, done := range []bool{false, true} {
			cut := y.copy(t)
			cut.at, cut.done = at, done
			when := fmt.Sprintf("cut at change %d, done %t", at, done)
			if err := cut.keeper(half, source{}).KeepPass(t.Context()); !errors.Is(err, errCut) {
				t.Fatalf("%s: %v", when, err)
			}
			cut.whole(t, when, 30, 40, 50)
			cut.at = math.MaxInt
			if err := cut.keeper(half, source{}).KeepPass(t.Context()); err != nil {
				t.Fatalf("after %s: %v", when, err)
			}
			if got := cut.names(t); !slices.Equal(got, want) {
				t.Fatalf("after %s are left %q, want %q", when, got, want)
			}
		}
	}
	before := c.changes
	if err := c.keeper(half, source{}).KeepPass(t.Context()); err != nil || c.changes != before {
		t.Errorf("another pass changes %d objects, %v", c.changes-before, err)
	}
}

// whileLocked: what a bucket does not let go stays of use, and goes later.
func (y *years) whileLocked(t *testing.T) {
	for part, days := range map[string][]int{".base": {10, 20, 30, 40, 50}, ".seg": {30, 40, 50}, ".pack": {30, 40, 50}, ".idx": {30, 40, 50}} {
		c := y.copy(t)
		c.locked = part
		if err := c.keeper(half, source{}).KeepPass(t.Context()); err != nil {
			t.Fatalf("%s locked: %v", part, err)
		}
		c.whole(t, part+" locked", days...)
		c.locked = ""
		if err := c.keeper(half, source{}).KeepPass(t.Context()); err != nil {
			t.Fatalf("%s unlocked: %v", part, err)
		}
		free := y.copy(t)
		if err := free.keeper(half, source{}).KeepPass(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := c.names(t), free.names(t); !slices.Equal(got, want) {
			t.Errorf("%s unlocked: left are %q, want %q", part, got, want)
		}
	}
}

// notMirroredAgain: a node that still holds a base which a rule has let
// go does not bring it back, and the packs of its own mirror stay that it has itself.
func (y *years) notMirroredAgain(t *testing.T) {
	c := y.copy(t)
	root, from := t.TempDir(), t.TempDir()
	writeFile(t, from+"/small", "x")
	info := y.bases[0].Info // of day 10, and of other files
	own := archivetest.Base(t, root, info, from)
	store, err := snapshot.Open(vfs.OS(), root, snapshot.StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	node := source{store: store, listed: []snapshot.Listed{own}}
	w := c.keeper(half, node)
	if err := w.MirrorStep(t.Context()); err != nil || len(c.put) == 0 {
		t.Fatalf("put were %q, %v", c.put, err)
	}
	if err := w.KeepPass(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := strings.Join(c.names(t), "\n")
	if strings.Contains(left, own.Name.String()) {
		t.Fatalf("the base of day 10 is still there:\n%s", left)
	}
	if mine := (archive.Mirror{Node: "dr-1", Incarnation: tidegate.Incarnation{2}}); !strings.Contains(left, mine.PackName(archivetest.Stream, 1)) {
		t.Errorf("a pack that this node has went:\n%s", left)
	}
	c.put = nil
	for _, again := range []*archive.Writer{w, c.keeper(half, node)} {
		if err := again.MirrorStep(t.Context()); err != nil || len(c.put) > 0 {
			t.Errorf("put again were %q, %v", c.put, err)
		}
	}
	node.store = nil // its disk is gone
	if err := c.keeper(half, node).KeepPass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := strings.Join(c.names(t), "\n"); strings.Contains(left, "02000000000000000000000000000000/packs") {
		t.Errorf("packs that nobody needs:\n%s", left)
	}
}

// notHeld: a node that may not be the only one removes nothing.
func (y *years) notHeld(t *testing.T) {
	c := y.copy(t)
	policy := archive.Policy{Keep: half}.SetDefaults()
	s := source{info: c.maker.Info}
	w := archive.NewWriter(archivetest.Stream, archive.Mirror{Node: "dr-1"}, policy, archive.Deps{
		Bucket: c, Source: s, Buffers: archive.NewBuffers(1), Clock: clock.NewFake(time.Unix(0, 0).Add(61 * oneDay)), Logger: slog.New(slog.DiscardHandler), Meter: s,
	})
	if err := w.KeepPass(t.Context()); err == nil || c.changes > 0 {
		t.Errorf("%d changes, %v", c.changes, err)
	}
}

// afterTakeover: what the node before may have had on its way stays: for as long as that
// takes everything, and for a day the packs of its mirror.
func (y *years) afterTakeover(t *testing.T) {
	c, now := y.copy(t), time.Unix(0, 0).Add(61*oneDay)
	clk := clock.NewFake(now)
	c.modified = now.Add(-time.Hour)
	w := c.keeperOf("dr-2", half, source{}, clk)
	if err := w.BasesStep(t.Context()); err != nil || c.changes > 0 {
		t.Fatalf("%d changes at once, %v", c.changes, err)
	}
	packs := func() (n int) {
		for _, name := range c.names(t) {
			if strings.Contains(name, "/packs/") {
				n++
			}
		}
		return n
	}
	before := packs()
	clk.Advance(archive.LeaseDefault)
	if err := w.BasesStep(t.Context()); err != nil || c.changes == 0 || packs() != before {
		t.Fatalf("%d changes after a lease, %d packs and indexes of %d, %v", c.changes, packs(), before, err)
	}
	clk.Advance(25 * time.Hour)
	if err := w.BasesStep(t.Context()); err != nil || packs() >= before {
		t.Errorf("a day later there are %d packs and indexes of %d, %v", packs(), before, err)
	}
	c.whole(t, "a day later", 30, 40, 50)
}

// node is one that holds a base which the archive lacks.
func (y *years) node(t *testing.T) source {
	t.Helper()
	root, from := t.TempDir(), t.TempDir()
	writeFile(t, from+"/small", "x")
	own := archivetest.Base(t, root, y.bases[4].Info, from)
	store, err := snapshot.Open(vfs.OS(), root, snapshot.StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	return source{store: store, listed: []snapshot.Listed{own}}
}

// takenOver: a node that may not be the only one any more lists no base, and looks anew
// when it is again.
func (y *years) takenOver(t *testing.T) {
	c, node := y.copy(t), y.node(t)
	w := c.keeper(archive.Retention{}, node)
	var index string
	c.before = func(name string) {
		if strings.HasSuffix(name, ".idx") {
			index = name
			w.Lapse()
		}
	}
	if err := w.MirrorStep(t.Context()); tidegate.ClassOf(err) != tidegate.Transient || index == "" || strings.HasSuffix(c.put[len(c.put)-1], ".base") {
		t.Fatalf("put were %q, %v", c.put, err)
	}
	if err := c.Bucket.Remove(t.Context(), index); err != nil { // by whoever was the only one
		t.Fatal(err)
	}
	c.put, c.before = nil, nil
	w.Hold()
	if err := w.MirrorStep(t.Context()); err != nil || !slices.Contains(c.put, index) || !strings.HasSuffix(c.put[len(c.put)-1], ".base") {
		t.Errorf("put were %q, %v", c.put, err)
	}
}

// packsHaveGone: a base that is listed and lacks something does not stay so.
func (y *years) packsHaveGone(t *testing.T) {
	c, node := y.copy(t), y.node(t)
	if err := c.keeper(archive.Retention{}, node).MirrorStep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{".idx", ".pack"} {
		i := slices.IndexFunc(c.put, func(name string) bool { return strings.HasSuffix(name, suffix) })
		name := c.put[i]
		if err := c.Bucket.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if err := c.keeper(archive.Retention{}, node).MirrorStep(t.Context()); err != nil || !slices.Contains(c.names(t), name) {
			t.Errorf("%s is not there again, %v", name, err)
		}
	}
}

// unreadable: while something cannot be read, or what stays lacks something, nothing goes.
func (y *years) unreadable(t *testing.T) {
	mirror := archive.Mirror{Node: "dr-1", Incarnation: tidegate.Incarnation{1}}
	oldest := mirror.ManifestName(archivetest.Stream, archive.BaseName{Generation: 1, Name: y.bases[0].Name})
	for what, damage := range map[string]func(c *cutOff){
		"a manifest": func(c *cutOff) { c.maker.Change(t, oldest, func(b []byte) []byte { b[len(b)/2]++; return b }) },
		"what the window's base was made of": func(c *cutOff) {
			for _, b := range y.bases[:3] {
				name := mirror.ManifestName(archivetest.Stream, archive.BaseName{Generation: 1, Name: b.Name})
				if err := c.Bucket.Remove(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range []string{mirror.IndexName(archivetest.Stream, 1), mirror.PackName(archivetest.Stream, 1)} {
				if err := c.Bucket.Remove(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		c := y.copy(t)
		damage(c)
		w := c.keeper(half, source{})
		if err := w.KeepPass(t.Context()); err != nil || c.changes > 0 || w.Status().Kept == "" {
			t.Errorf("%s: %d changes, %q, %v", what, c.changes, w.Status().Kept, err)
		}
	}
}
