package standby

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/snapshot"
)

// picky is a counter that takes no state at some positions.
type picky struct {
	counter

	refuses []tidegate.Position
	asked   []tidegate.Position
}

func (y *picky) Restore(ctx context.Context, at tidegate.Position, r io.Reader) error {
	y.asked = append(y.asked, at)
	if slices.Contains(y.refuses, at) {
		return errors.New("written by a later release")
	}
	return y.counter.Restore(ctx, at, r)
}

// A base that the service cannot read, or that is damaged here, is passed over for the
// one before it, and in the end for the log; what was wrong is said, by the base's name.
// A base that is damaged at a start, and that nobody needs, stops nothing.
func TestUnfitBaseIsPassedOver(t *testing.T) {
	c := newStateCluster(t, BasePolicy{LookEvery: 20 * time.Millisecond, RefreshOff: true, TrimOff: true}, "dr1")
	src := newBooks(t)
	w := c.start1()
	w.attach("dr1")
	w.sealLineage(src.j.Lineage(), "")
	first := &counter{}
	beside := c.follow("dr1", filepath.Join(t.TempDir(), "journal"), first)
	nd := c.nodes["dr1"]
	for want := 1; want <= 2; want++ {
		w.grow(src, 20, 30_000)
		c.applies("it applies", first, src, first)
		if err := AskRefresh(nd.fs, nd.dir, theStream); err != nil {
			t.Fatal(err)
		}
		c.until("a base is taken", func() bool { s := c.starts("dr1"); return len(s) == want && s[want-1] == src.j.End() })
	}
	w.grow(src, 3, 1000)
	c.applies("it applies the rest", first, src, first)
	beside.stop()
	starts := c.starts("dr1")
	says := func(at tidegate.Position) bool {
		return slices.ContainsFunc(nd.status().Findings, func(f local.Finding) bool {
			return f.Name == findingUnfit && strings.Contains(f.Text, at.String()) && f.Hint != ""
		})
	}

	y := &picky{refuses: starts[1:]}
	beside = c.follow("dr1", filepath.Join(t.TempDir(), "journal"), y)
	c.applies("it begins at the older one", y, src, first)
	beside.stop()
	if _, restored := y.counts(); restored == 0 || beside.j.First() != starts[0] || !slices.Equal(y.asked, []tidegate.Position{starts[1], starts[0]}) {
		t.Errorf("restored %d bytes, begins at %s, was asked at %v", restored, beside.j.First(), y.asked)
	}
	if !says(starts[1]) || says(starts[0]) {
		t.Errorf("findings %+v", nd.status().Findings)
	}

	y = &picky{refuses: starts}
	beside = c.follow("dr1", filepath.Join(t.TempDir(), "journal"), y)
	c.applies("it begins with the log", y, src, first)
	beside.stop()
	if _, restored := y.counts(); restored != 0 || beside.j.First() != 0 || !slices.Equal(y.asked, starts[:1]) || !says(starts[0]) {
		t.Errorf("restored %d bytes, begins at %s, was asked at %v", restored, beside.j.First(), y.asked)
	}

	again := func(what string) {
		t.Helper()
		if err := nd.stop(); err != nil {
			t.Fatal(err)
		}
		nd.start()
		c.until(what, func() bool {
			s := nd.n.stream(theStream)
			return s != nil && s.fault == nil && nd.status().Durable.Seq == tidegate.Seq(len(w.log))
		})
		w.attach("dr1") // what is committed comes with it
		w.grow(src, 1, 100)
	}
	again("it counts")
	c.damageNewest(nd)
	y = &picky{}
	beside = c.follow("dr1", filepath.Join(t.TempDir(), "journal"), y)
	c.until("the damaged one is passed over", func() bool { at, _ := y.State(); return at == src.j.End() })
	beside.stop()
	if beside.j.First() != starts[0] || !says(starts[1]) {
		t.Errorf("begins at %s; findings %+v", beside.j.First(), nd.status().Findings)
	}

	list := nd.n.stream(theStream).bases.store.Bases()
	path := snapshot.ManifestPath(filepath.Join(streamDir(nd.dir, theStream), baseDirName), list[1].Generation, list[1].Name.String())
	if err := os.WriteFile(path, []byte("no manifest"), 0o600); err != nil {
		t.Fatal(err)
	}
	again("it counts without the damaged one")
	c.until("the other one is of use", func() bool { return len(c.starts("dr1")) == 1 })
}

// damageNewest changes a byte in the newest base on a node that no other base needs.
func (c *cluster) damageNewest(nd *node) {
	c.t.Helper()
	store := nd.n.stream(theStream).bases.store
	list := store.Bases()
	_, m, err := store.Manifest(list[len(list)-1])
	if err != nil {
		c.t.Fatal(err)
	}
	x := m.Extents[0][len(m.Extents[0])-1]
	packs, err := filepath.Glob(filepath.Join(streamDir(nd.dir, theStream), baseDirName, "packs", "*.pack"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, path := range packs {
		raw, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		at := bytes.Index(raw, x[:]) - 16 // where the record's name stands in it
		if at < 0 || string(raw[at:at+4]) != "TGPR" {
			continue
		}
		raw[at+int(binary.LittleEndian.Uint32(raw[at+4:]))-1]++
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	c.t.Fatalf("extent %.12s is nowhere", x)
}

// Where all bases were found unfit, and the log begins behind them, they are tried again
// after a while, the one that waits longest first.
func TestUnfitBasesAreTriedAgain(t *testing.T) {
	var list []snapshot.Listed
	for i := range 3 {
		list = append(list, snapshot.Listed{Name: snapshot.Name{byte(i)}})
	}
	a := applyState{unfit: map[snapshot.Name]unfit{}}
	why := errors.New("?")
	want := func(must bool, now tidegate.Instant, want int) {
		t.Helper()
		got := -1
		base, err := a.choose(list, must, now)
		if base != nil {
			got = int(base.Name[0])
		}
		if got != want || (got < 0) != (err != nil) {
			t.Errorf("at %d: %d, %v; want %d", now, got, err, want)
		}
	}
	for i := 2; i >= 0; i-- {
		want(true, 100, i)
		a.unfit[list[i].Name] = unfit{list[i], why, tidegate.Instant(100 + i)}
	}
	want(true, 100, -1)
	want(true, 100+tidegate.Instant(unfitAgain), 0)
	want(false, 100+tidegate.Instant(unfitAgain), -1)
	if base, err := a.choose(nil, true, 0); base != nil || err != nil {
		t.Errorf("of none: %v, %v", base, err)
	}
}
