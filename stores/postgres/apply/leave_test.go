package apply

import (
	"context"
	"testing"

	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
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
