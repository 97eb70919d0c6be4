package replay

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
)

// stay begins a replay that stays, and runs it beside the test.
func (w *world) stay(t *testing.T, c Choice) (r *Replay, ended chan error) {
	t.Helper()
	p, err := w.plan(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if r, err = New(clock.System(), Config{RunDir: w.run, Wait: time.Minute, Stay: true}, []*Plan{p}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	go func() { // owned by the test, which waits for it when it ends
		_, err := r.Run(ctx)
		ended <- err
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		for range ended {
		}
	})
	return r, ended
}

// refuser is a service that cannot be promoted.
type refuser struct{ *adder }

func (refuser) Promote(context.Context, tidegate.Epoch, tidegate.Position) error { return errPoison }

// TestStay: one range after the other in one session, and a promotion in the end.
func TestStay(t *testing.T) {
	w := newWorld(t)
	third := w.ends[records/3]
	stop := w.start(t, filepath.Join(t.TempDir(), "journal"), &adder{}, nil)
	r, _ := w.stay(t, Choice{To: to(third), Beginning: true})
	out, err := r.Fed(t.Context())
	if err != nil || out[0].Position != third || out[0].Digest != w.digests[records/3] || out[0].Records == 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	p, err := w.plan(t, Choice{To: to(w.ends[records]), Beginning: true, Digest: w.digests[records]})
	if err != nil {
		t.Fatal(err)
	}
	r.Next([]*Plan{p})
	if out, err = r.Fed(t.Context()); err != nil || out[0].Verdict != Same || out[0].Records != records-records/3 || len(out[0].Checked) == 0 {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := r.Promote(t.Context(), 1<<62); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestPromotionFails: a service that ends when it is to be active is no promoted one.
func TestPromotionFails(t *testing.T) {
	w := newWorld(t)
	stop := w.start(t, filepath.Join(t.TempDir(), "journal"), refuser{&adder{}}, nil)
	r, ended := w.stay(t, Choice{To: to(w.ends[records])})
	if _, err := r.Fed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Promote(t.Context(), 1<<62); tidegate.ClassOf(err) != tidegate.Transient || !strings.Contains(err.Error(), "the service went away") {
		t.Errorf("promoted: %v", err)
	}
	if err := <-ended; err == nil {
		t.Error("the replay goes on")
	}
	if err := stop(); !errors.Is(err, errPoison) {
		t.Error(err)
	}
}

// TestStayDiffers: what differs ends it, and says so to who waits.
func TestStayDiffers(t *testing.T) {
	w := newWorld(t)
	w.start(t, filepath.Join(t.TempDir(), "journal"), &adder{spoils: 3}, nil)
	r, _ := w.stay(t, Choice{To: to(w.ends[records]), Beginning: true})
	out, err := r.Fed(t.Context())
	if err != nil || out[0].Verdict != Differs {
		t.Fatalf("%+v, %v", out, err)
	}
	if err := r.Promote(t.Context(), 1<<62); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("promoted: %v", err)
	}
}
