package standby

import (
	"bytes"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/shipper"
)

// appliedAt is what the writer was told of the warm copy beside a node.
func (w *writer) appliedAt(n tidegate.NodeName) tidegate.Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	for m, a := range w.acks {
		if m.Node == n {
			return a.AppliedAt
		}
	}
	return 0
}

// What a warm copy has applied, and what it asks of the source, reach the writer,
// through a relay too; but only while the copy is known to follow the writer's log.
func TestWhatComesBackFromAWarmCopy(t *testing.T) {
	c := withLibrary(t, 2, "dr1", "dr2")
	w := c.start1()
	ship := func(n int) tidegate.Position {
		t.Helper()
		w.seal(n, 333)
		if err := w.ship(); err != nil {
			t.Fatal(err)
		}
		return tidegate.Position(len(w.raw()))
	}
	w.attach("dr1")
	end := ship(40)
	l := c.library("dr1", nil)
	c.until("applied is told", func() bool { return w.appliedAt("dr1") == end })
	ask := func(opaque string) {
		t.Helper()
		if err := l.conn.Send(&local.Feedback{Opaque: opaque}); err != nil {
			t.Fatal(err)
		}
	}
	// told waits until the writer was told n times, and returns the last.
	told := func(n int) (f shipper.Feedback) {
		t.Helper()
		c.until("what it asks is told", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.back) < n {
				return false
			}
			f = w.back[n-1]
			return true
		})
		return f
	}
	ask("old rows")
	want := shipper.Feedback{Node: "dr1", Incarnation: w.rec.Config.Members[0].Incarnation, Epoch: w.rec.Epoch, Opaque: "old rows"}
	if got := told(1); got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
	ask("old rows") // that it is said again says that the copy is still there
	told(2)

	// Behind a relay. What was heard before is not told to the next writer as if it
	// were new, unless by the node itself.
	w.attach("dr2")
	end = ship(1)
	c.until("applied is told through the relay", func() bool { return w.appliedAt("dr1") == end })
	ask("")
	c.until("it is taken back through the relay", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		last := w.back[len(w.back)-1]
		return last.Node == "dr1" && last.Opaque == ""
	})

	// A library that rests is fed nothing: nobody knows whose log it applies.
	have := l.have()
	l.close()
	l = &fakeLibrary{t: t, bytes: bytes.Clone(have)}
	var err error
	l.conn, _, err = local.Dial(c.ctx(), local.SocketPath(c.run, local.DaemonStandby, "ledger", "main"), local.Hello{
		Service: "ledger", Stream: "main", Kind: local.KindJournal, Dir: "/j", End: end, Rest: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	l.report()
	l.wg.Go(l.run)
	t.Cleanup(l.close)
	c.until("nothing is told of a copy that rests", func() bool { return w.appliedAt("dr1") == 0 })
	c.until("and it has applied all the same", func() bool {
		st := c.nodes["dr1"].status()
		return st.AppliedPosition != nil && *st.AppliedPosition == end
	})

	// Fed again, and then active: it is no copy any more.
	l.close()
	l = c.library("dr1", have)
	c.until("applied is told again", func() bool { return w.appliedAt("dr1") == end })
	if err := l.conn.Send(&local.Activated{L: end}); err != nil {
		t.Fatal(err)
	}
	c.until("nothing is told of a service that is active", func() bool { return w.appliedAt("dr1") == 0 })
}

// A session's proof is of one epoch, and of what is committed.
func TestAppliedIsToldOfItsEpoch(t *testing.T) {
	good := func() *library {
		return &library{
			proven: 3, appliedOK: true, told: local.Role{State: local.StateFollow, ApplyTo: 100}, progress: local.LibraryProgress{Applied: 90},
		}
	}
	for name, tc := range map[string]struct {
		change func(*library)
		want   tidegate.Position
	}{
		"proven":                   {func(*library) {}, 90},
		"of the epoch before":      {func(l *library) { l.proven = 2 }, 0},
		"beyond what is committed": {func(l *library) { l.told.ApplyTo = 80 }, 0},
		"beyond the log":           {func(l *library) { l.appliedOK = false }, 0},
		"active":                   {func(l *library) { l.active = true }, 0},
	} {
		l := good()
		tc.change(l)
		a := applyState{library: l}
		if got := a.at(3); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	if got := (&applyState{}).at(3); got != 0 {
		t.Errorf("without a library: %s", got)
	}
}
