package apply

import (
	"context"
	"errors"
	"testing"

	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/quarantine"
)

// A primary that somebody else runs is left alone until a switchover asks for its
// end, and goes on as it was when that is called off, whatever was restarted meanwhile.
func TestAdoptedServerIsDrainedAndGoesOn(t *testing.T) {
	w, n := newWarm(t, newOrigin(t, pgtest.Config{}))
	pg := pgtest.New(t, pgtest.Config{Settings: map[string]string{"work_mem": "5MB"}})
	t.Cleanup(w.end) // it was started after the connector's own end was arranged
	pg.SQL(t, "CREATE TABLE kept AS SELECT 7 AS n")
	w.cfg.Server.Data = pg.DataDir
	w.start()
	told := func(s local.Source) {
		t.Helper()
		n.change(func() { n.source = s })
		n.until("told", func() bool { return n.heard && n.told.Source == s })
	}
	told(local.SourceWrites)
	if n.hello.End != 0 || n.hello.Lineage != "" || !n.hello.Rest {
		t.Errorf("it offers somebody else's log: %+v", n.hello)
	}
	pg.SQL(t, "SELECT 1")

	told(local.SourceHandsOver)
	<-pg.Exited()
	told(local.SourceUnknown) // the record is of the next epoch, which is being opened
	w.stop()
	w.start()
	n.until("heard again", func() bool { return n.heard })
	told(local.SourceHandsOver)
	if up, err := w.c.server.Running(); err != nil || up {
		t.Fatalf("it runs: %v, %v", up, err)
	}

	told(local.SourceWrites)
	pgtest.Until(t, "it answers again", func(ctx context.Context) error {
		_, err := pg.Text(ctx, "SELECT 1")
		return err
	})
	if got := pg.SQL(t, "SELECT n FROM kept") + pg.SQL(t, "SHOW work_mem"); got != "75MB" {
		t.Errorf("it goes on with %q", got)
	}
	pgtest.Until(t, "that to be written down", func(context.Context) error {
		w.c.mu.Lock()
		defer w.c.mu.Unlock()
		if w.c.saved.Drained {
			return context.DeadlineExceeded
		}
		return nil
	})
}

// A promoted server that the stream leaves follows again: what only it has is in
// quarantine and accounted for, and it is rewound, or restored where it cannot be.
func TestPromotedServerFollowsAgain(t *testing.T) {
	for _, way := range []string{"rewound", "restored"} {
		t.Run(way, func(t *testing.T) {
			o := newOrigin(t, pgtest.Config{})
			w, n := newWarm(t, o)
			if way == "rewound" {
				w.cfg.RewindFrom = o.Conn()
			}
			n.change(func() { n.follow = true })
			w.start()
			o.Tool(t, "pgbench", "-n", "-c", "2", "-t", "100")
			w.sameAt(n)
			n.promote(n.cut())
			w.must("CREATE TABLE lost AS SELECT 7 AS n")
			began := w.must("SELECT pg_current_wal_insert_lsn()")

			// The old primary has gone on, and a newer epoch is its.
			o.SQL(t, "CREATE TABLE kept AS SELECT 7 AS n")
			n.change(func() { n.h, n.limit, n.epoch, n.tells = 0, 0, n.epoch+1, o.line.Text() })
			var tail Tail
			pgtest.Until(t, "the account of what it left", func(context.Context) error {
				select {
				case tail = <-w.left:
					return nil
				default:
					return errors.New("there is none")
				}
			})
			if tail.Commits == 0 || tail.Next <= tail.First || tail.Newest.IsZero() {
				t.Errorf("left behind: %+v, up to %s", tail, began)
			}
			pgtest.Until(t, "it to follow", func(context.Context) error {
				v, err := w.sql("SELECT pg_is_in_recovery() AND to_regclass('lost') IS NULL AND to_regclass('kept') IS NOT NULL")
				if err == nil && v != "t" {
					err = errors.New("it does not")
				}
				return err
			})
			w.sameAt(n)
			bundles, err := quarantine.Find(w.cfg.Server.Home)
			if err != nil {
				t.Fatal(err)
			}
			want := map[quarantine.Kind]string{quarantine.KindServerTail: "diverged"}
			if way == "restored" {
				want[quarantine.KindDataAside] = "replaced"
			}
			for _, b := range bundles {
				if b.State != quarantine.StateWhole || b.Summary == nil || b.Summary.Reason != want[b.Kind] || b.Summary.Stream != w.cfg.Stream {
					t.Errorf("in quarantine: %+v", b)
				}
				if b.Kind == quarantine.KindServerTail && (b.Path != tail.Path || *b.Summary.Records != int64(tail.Commits)) {
					t.Errorf("%+v was reported, and in quarantine is %+v", tail, b)
				}
			}
			if len(bundles) != len(want) {
				t.Errorf("%d bundles, want %v", len(bundles), want)
			}
		})
	}
}
