package shadow

import (
	"os"
	"testing"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/journal/base"
)

// A base that begins with a batch, as one of a service that had applied all does, is no
// less good than one from the middle: the clone has the batch that led to it, too.
func TestBaseBetweenBatches(t *testing.T) {
	s := newSite(t)
	reader, err := archive.OpenReader(t.Context(), s.m.B)
	if err != nil {
		t.Fatal(err)
	}
	infos, _, err := reader.Streams(t.Context())
	if err != nil || len(infos) != 1 {
		t.Fatalf("%v, %v", infos, err)
	}
	src, err := reader.Open(t.Context(), infos[0])
	if err != nil {
		t.Fatal(err)
	}
	middle, err := src.AtPosition(t.Context(), 0, s.at/2)
	if err != nil {
		t.Fatal(err)
	}
	s.m.State(t, base.State{Position: middle.Next, Records: 1, Lineage: "journal:00"}, middle.Epoch, []byte("a state"))
	d := New(vfs.OS(), nil, s, s.cfg, Options{})
	look, err := s.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if reader, err = archive.OpenReader(t.Context(), s.m.B); err != nil {
		t.Fatal(err)
	}
	g := &ground{d: d, box: &sandbox{dir: dir}, space: spaceOf(vfs.OS(), dir, nil), reader: reader, infos: infos, look: look, chosen: func() {}}
	if err := os.Mkdir(g.box.log(), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := openClone(t.Context(), g, Backlog{Records: 1})
	defer c.close()
	if err != nil {
		t.Fatal(err)
	}
	plans, err := c.head(t.Context(), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	if p := plans[0]; p.Base == nil || p.First != middle.Next {
		t.Errorf("the clone begins at %s, want the base at %s", p.First, middle.Next)
	}
}
