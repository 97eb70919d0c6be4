package restore

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

// TestGoingOnKeepsItsBase: a base that was archived since does not keep a restore from
// going on.
func TestGoingOnKeepsItsBase(t *testing.T) {
	to := Target{FS: vfs.OS(), Clock: clock.System(), Dir: t.TempDir()}
	if got := (Choice{}).GoingOn(to); got != (Choice{}) {
		t.Errorf("an empty directory: %+v", got)
	}
	if err := (attempt{Version: 1, To: "latest", Base: "abc"}).write(to.FS, to.Dir); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		choice Choice
		want   string
	}{{Choice{}, "abc"}, {Choice{Base: "other"}, "other"}, {Choice{To: To{Seq: 7}}, ""}} {
		if got := c.choice.GoingOn(to); got.Base != c.want {
			t.Errorf("%+v: base %q, want %q", c.choice, got.Base, c.want)
		}
	}
}

// TestOneGeneration: without a base nothing leads from one generation to the next.
func TestOneGeneration(t *testing.T) {
	m := archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "journal")
	m.Data(t, []byte("first"), 1, 1, 1)
	m.Generation = 2
	m.Data(t, []byte("second"), 1, 2, 2)
	m.Segment(t)
	r, err := archive.OpenReader(t.Context(), m.B)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(t.Context(), m.Info)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Make(t.Context(), clock.System(), s, &archive.Bases{}, Choice{})
	if !errors.Is(err, tidegate.ErrNotFound) || !strings.Contains(err.Error(), "begins with generation 1") {
		t.Errorf("latest: %v", err)
	}
	if _, err = Make(t.Context(), clock.System(), s, &archive.Bases{}, Choice{To: To{Seq: 1}}); err != nil {
		t.Errorf("the first generation: %v", err)
	}
}
