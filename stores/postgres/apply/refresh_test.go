package apply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// refresh takes a base of the warm server into the origin's store.
func (w *warm) refresh() (snapshot.Listed, snapshot.Progress, error) {
	w.t.Helper()
	in, err := w.o.store.Intake()
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = in.Close() }() // what was not sealed is found by the next
	var meter snapshot.Meter
	info := snapshot.Info{Stream: theStream, Generation: 1, Opened: 1, Taken: 2}
	m, err := snapshot.Build(w.t.Context(), in, snapshot.BuildConfig{Meter: &meter}, info, func(ctx context.Context, to snapshot.Writer) (snapshot.Base, error) {
		return w.c.Base(ctx, to, meter.SetTotal)
	})
	if err != nil {
		return snapshot.Listed{}, meter.Progress(), err
	}
	text, _, err := m.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := in.Commit(w.t.Context(), text, func(snapshot.Info) error { return nil })
	return l, meter.Progress(), err
}

// A base of the warm server, taken under load, holds what the log says to where it
// ends, stores what changed only, carries no node's settings, and makes another
// server that follows the log from its own redo on, and is promoted.
func TestBaseIsRefreshedFromTheWarmServer(t *testing.T) {
	o := newOrigin(t, pgtest.Config{})
	w, n := newWarm(t, o)
	w.cfg.Server.Settings["work_mem"] = "7MB"
	w.start()
	n.change(func() { n.follow = true })
	w.sameAt(n)
	if _, _, err := w.refresh(); !errors.Is(err, tidegate.ErrConflict) {
		t.Fatalf("a base of what is not newer: %v", err)
	}
	first := o.store.Bases()[0]
	load := o.Bench(t, "-c", "2", "-T", "600")
	var l snapshot.Listed
	var p snapshot.Progress
	o.checkpoint(t)
	pgtest.Until(t, "the server to have replayed a checkpoint", func(context.Context) (err error) {
		l, p, err = w.refresh()
		return err
	})
	load.Stop()
	if l.Start <= first.Start || l.End < l.Start || l.Lineage != first.Lineage || l.Attrs[AttrRelease] == "" || l.Attrs[AttrRedo] == "" {
		t.Errorf("base %+v after %+v", l.Info, first.Info)
	}
	if p.Needed*3 > p.Bytes {
		t.Errorf("%d of %d bytes were new", p.Needed, p.Bytes)
	}
	w.sameAt(n)

	// Another node has that base only, and log from its start on.
	other, m := newWarm(t, o)
	other.cfg.Server.Settings["work_mem"] = "9MB"
	cut := t.TempDir()
	only, err := snapshot.Open(vfs.OS(), cut, snapshot.StoreConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer only.Close()
	copyBase(t, o.store, only, l)
	other.bases = only
	m.change(func() { m.from = wal.LSN(l.Start) })
	other.start()
	m.change(func() { m.follow = true })
	other.sameAt(m)
	auto := readFile(t, filepath.Join(other.cfg.Server.Home, "cluster/data/postgresql.auto.conf"))
	if strings.Contains(auto, "7MB") || !strings.Contains(auto, "9MB") || other.must("SHOW work_mem") != "9MB" {
		t.Errorf("the other node runs under\n%s", auto)
	}

	// The first server sleeps, and the log is trimmed behind all that it has: it is
	// moved aside and made from the newest base, once, though the log goes on behind
	// that, too; and again when there is a newer one.
	w.end()
	o.SQL(t, "SELECT pg_switch_wal()")
	trimmed := o.flushed(t)
	n.change(func() { n.from = trimmed })
	made := func(from snapshot.Listed) func(context.Context) error {
		return func(context.Context) error {
			s, err := readSaved(vfs.OS(), filepath.Join(w.cfg.Server.Home, stateFile))
			if err == nil && (s.Base != from.Name.String() || s.Phase != phaseFollowing) {
				err = fmt.Errorf("it is %s, of base %s", s.Phase, s.Base)
			}
			return err
		}
	}
	w.start()
	pgtest.Until(t, "the first server to be made from the newest base", made(l))
	n.until("the first server to say what it lacks", func() bool { return strings.Contains(n.finding, tidegate.ErrGap.Error()) })
	var newer snapshot.Listed
	o.checkpoint(t)
	pgtest.Until(t, "the other server to have replayed a checkpoint", func(context.Context) (err error) {
		newer, _, err = other.refresh()
		return err
	})
	pgtest.Until(t, "the first server to be made from the newer base", made(newer))
	w.sameAt(n)
	if aside, err := os.ReadDir(filepath.Join(w.cfg.Server.Home, quarantine.AsideName)); err != nil || len(aside) != 2 {
		t.Errorf("moved aside: %v, %v", aside, err)
	}

	h := m.cut()
	m.promote(h)
	if got := other.must("SELECT pg_is_in_recovery()"); got != "f" {
		t.Errorf("in recovery: %s", got)
	}
	w.complaints()
	other.complaints()
}

// checkpoint makes a redo in a segment that is not begun yet.
func (o *origin) checkpoint(t *testing.T) {
	t.Helper()
	o.SQL(t, "SELECT pg_switch_wal()")
	o.SQL(t, "CHECKPOINT")
}

// copyBase copies one base from a store to another.
func copyBase(t *testing.T, from, to *snapshot.Store, l snapshot.Listed) {
	t.Helper()
	raw, m, err := from.Manifest(l)
	if err != nil {
		t.Fatal(err)
	}
	in, err := to.Intake()
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Giver(0).GiveAll(t.Context(), in, m, &snapshot.Meter{}); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Commit(t.Context(), raw, func(snapshot.Info) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
}

// A base of a history that the stream went on without is not restored.
func TestBaseOfAnotherHistoryIsNotTaken(t *testing.T) {
	base := func(line string, end tidegate.Position) snapshot.Listed {
		return snapshot.Listed{Info: snapshot.Info{Base: snapshot.Base{End: end, Lineage: tidegate.Lineage(line)}}}
	}
	fork, err := wal.ParseLineage("pg:7:1")
	if err != nil {
		t.Fatal(err)
	}
	forked, err := fork.Fork(2, 0x5000)
	if err != nil {
		t.Fatal(err)
	}
	two := forked.Text()
	for _, c := range []struct {
		name string
		base snapshot.Listed
		log  tidegate.Lineage
		want bool
	}{
		{"the same", base("pg:7:1", 0x9000), "pg:7:1", true},
		{"ends before the fork", base("pg:7:1", 0x5000), two, true},
		{"ends beyond the fork", base("pg:7:1", 0x5001), two, false},
		{"of a fork that the log has not taken", base(string(two), 0x9000), "pg:7:1", false},
		{"another system", base("pg:8:1", 0x10), "pg:7:1", false},
		{"not known", base("pg:8:1", 0x10), "", true},
	} {
		if got := belongs(c.base, c.log); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
