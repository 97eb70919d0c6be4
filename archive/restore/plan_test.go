package restore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
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
	_, err = Choose(t.Context(), s, &archive.Bases{}, Choice{})
	if !errors.Is(err, tidegate.ErrNotFound) || !strings.Contains(err.Error(), "begins with generation 1") {
		t.Errorf("latest: %v", err)
	}
	if _, err = Choose(t.Context(), s, &archive.Bases{}, Choice{To: To{Seq: 1}}); err != nil {
		t.Errorf("the first generation: %v", err)
	}
}

// never is a store that does not see what lies behind a target.
type never struct{ stores.Restorer }

func (never) Batch(context.Context, *batch.Header, []byte) (bool, error) { return false, nil }

// TestTimeAtAHole: all that leads up to a time is restored although a hole follows, and
// said to be unproven.
func TestTimeAtAHole(t *testing.T) {
	m := archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "journal")
	var names []string
	for i := range 3 {
		at := int64(10 * (i + 1))
		m.Data(t, []byte("batch"), 1, at, at)
		names = append(names, m.Segment(t))
	}
	if err := m.B.Remove(t.Context(), names[1]); err != nil {
		t.Fatal(err)
	}
	r, err := archive.OpenReader(t.Context(), m.B)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Open(t.Context(), m.Info)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Choose(t.Context(), s, &archive.Bases{}, Choice{To: To{Time: time.Unix(0, 10)}})
	if err != nil {
		t.Fatal(err)
	}
	if last, reached, err := p.log(t.Context(), 0, never{}, &Meter{}); err != nil || reached || last.Seq != 1 {
		t.Errorf("ended with %v, reached %t, %v", last, reached, err)
	}
	if _, err := Choose(t.Context(), s, &archive.Bases{}, Choice{To: To{Time: time.Unix(0, 11)}}); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("in the hole: %v", err)
	}
}
