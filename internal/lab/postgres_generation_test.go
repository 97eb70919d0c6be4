package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// losesLog has the server give up the log that the other site lacks, while nobody
// takes it: the agent is killed, its slot is dropped, and the server goes on writing.
func (s *pgStage) losesLog(t *testing.T) {
	t.Helper()
	s.Proc("agent-p1").Kill()
	for _, sql := range []string{
		"ALTER SYSTEM SET wal_keep_size = 0", "ALTER SYSTEM SET max_wal_size = '32MB'", "ALTER SYSTEM SET min_wal_size = '32MB'", "SELECT pg_reload_conf()",
	} {
		s.sql(t, sql)
	}
	s.until(t, "the slot to be free", func(ctx context.Context) error {
		_, err := s.pg.Primary.Query(ctx, "SELECT pg_drop_replication_slot('tidegate')")
		return err
	})
	// More than is kept, by somebody who does not wait.
	for range 4 {
		s.sql(t, "SET synchronous_commit = local; CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 30000); DROP TABLE filler")
	}
	s.sql(t, "CHECKPOINT")
	s.sql(t, "SELECT pg_switch_wal()")
	s.sql(t, "CHECKPOINT")
}

func (s *pgStage) sql(t *testing.T, sql string) {
	t.Helper()
	s.within(t, func(ctx context.Context) error {
		_, err := s.pg.Primary.Query(ctx, sql)
		return err
	})
}

// declares does what the doctor says, once it says so: the gap is open until then, no rule
// lets a change of role pass over it, and then it is on record.
func (s *pgStage) declares(t *testing.T) {
	t.Helper()
	const stream, yes = "ledger/main", "gap accept"
	s.until(t, "the doctor to name the command", func(ctx context.Context) error {
		out, _ := s.Tidegate(ctx, "doctor") // it ends with 1 while something is wrong
		if !strings.Contains(string(out), yes) {
			return errors.New(string(out))
		}
		return nil
	})
	s.operate(t, 1, "gap", "list", stream)
	explained, _ := s.Tidegate(t.Context(), "failover", "--dry-run", lab.Service) // drills and others may refuse it as well
	says(t, string(explained), "no-gap", "does not continue the log")
	s.operate(t, 2, "gap", "accept", stream)
	says(t, s.operate(t, 0, "gap", "accept", "--dry-run", stream), "log-lost", "new base: of about ", "nothing changed")
	s.operate(t, 0, "gap", "accept", "--reason", "the slot was dropped", stream)
	s.until(t, "the agent to have said anything since", func(ctx context.Context) error {
		out, err := s.Tidegate(ctx, "gap", "list", stream)
		if err == nil {
			says(t, string(out), "the slot was dropped")
		}
		if exit, ok := errors.AsType[*lab.ExitError](err); ok && exit.Code == 1 {
			t.Errorf("the gap is still said to be open: %s", out)
		}
		return err
	})
	if out := s.operate(t, 0, "streams", "list"); !strings.Contains(out, "p1") {
		t.Error(out)
	}
}

// opening waits until the agent writes a generation that counts for nothing yet.
func (s *pgStage) opening(t *testing.T, g tidegate.Generation) {
	t.Helper()
	s.until(t, "the new generation to be opened", func(ctx context.Context) error {
		st, err := s.agentStatus(ctx, "p1")
		if err != nil {
			return err
		}
		if w := st.Streams[0].Writer; w == nil || w.Generation != g || !w.Opening {
			return fmt.Errorf("%+v", st.Streams[0])
		}
		return nil
	})
}

// A server's log is gone that the other site lacks. Nobody is told anything until a
// new generation, declared by one command, is whole there, whatever is killed in the
// middle of it; then everything is protected again, and the site may be lost.
func TestPostgresNewGeneration(t *testing.T) {
	s := newPostgres(t, pglab.Config{Tune: func(name string, file map[string]any) {
		if filepath.Base(name) == "standby.yaml" {
			file["archive"] = map[string]any{"url": "file://" + bucketOf(file), "every": "200ms"}
		}
	}}, tidegate.ModeSync, tidegate.Bounds{})
	s.losesLog(t)
	s.within(t, func(ctx context.Context) error { return s.pg.Stall(ctx, 0) }) // the base does not cross yet
	if err := s.Proc("agent-p1").Start(); err != nil {
		t.Fatal(err)
	}
	s.declares(t)
	s.opening(t, 2)
	s.quiet(t)
	for _, name := range []string{"agent-p1", "standby-d1"} {
		s.Proc(name).Kill()
		if err := s.Proc(name).Start(); err != nil {
			t.Fatal(err)
		}
	}
	s.opening(t, 2)
	if err := os.RemoveAll(s.File("p1", "rates")); err != nil {
		t.Fatal(err)
	}
	s.more(t, 50) // W nodes have the base
	s.followed(t, "d1", s.pg.Warm)
	if old, err := filepath.Glob(filepath.Join(s.pg.WarmHome(), "aside", "generation-1-*")); err != nil || len(old) != 1 {
		t.Errorf("kept of the old warm server: %v, %v", old, err)
	}
	s.declaredOnce(t)
	s.bothSides(t)
	s.lose(t)
}

// scarred is what `tidegate window` says of a stream.
type scarred struct {
	Scars []archive.Scar `json:"scars"`
	Spans []archive.Span `json:"spans"`
}

// bothSides restores out of the archive what lies on either side of the gap, and is refused
// what lies in it, by the scar, which says who accepted it.
func (s *pgStage) bothSides(t *testing.T) {
	t.Helper()
	url := "file://" + s.File("bucket")
	var w []scarred
	s.until(t, "the archive to have both sides", func(ctx context.Context) error {
		out, err := s.Command(ctx, filepath.Join(binaries, "tidegate"), "window", "--url", url, "-o", "json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal(out, &w); err != nil {
			return err
		}
		if len(w) != 1 || len(w[0].Scars) != 1 || w[0].Scars[0].Accepted == nil || len(w[0].Spans) != 2 || !w[0].Spans[0].Restorable || !w[0].Spans[1].Restorable {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	scar := w[0].Scars[0]
	if g := scar.Accepted; g.Reason != "the slot was dropped" || g.Actor == "" || g.Lost == "" || scar.Begun.Generation != 2 {
		t.Errorf("scar %+v, %+v", scar, g)
	}
	says(t, s.operate(t, 0, "gap", "list", "--url", url), "accepted", scar.Ended.Next.String(), scar.Begun.First.String(), "the slot was dropped")
	restore := func(code int, dir string, more ...string) string {
		into := s.pg.WarmHome() + "-" + dir
		return s.operate(t, code, append([]string{"restore", "--url", url, "--service", lab.Service, "--into", into}, more...)...)
	}
	says(t, restore(4, "between", "--to", fmt.Sprintf("%016x", uint64(scar.Begun.First-1))), "lies in a scar", "the slot was dropped")
	says(t, restore(4, "between", "--to", scar.Ended.Newest.Add(time.Millisecond).Format(time.RFC3339Nano)), "lies in a scar")
	restore(0, "before", "--to", scar.Ended.Next.String(), "--generation", "1")
	into := s.pg.WarmHome() + "-behind"
	t.Cleanup(func() { endServer(t, into) })
	says(t, restore(0, "behind", "--start", "--port", "5499"), "started: timeline")
}

// A site that is lost in the middle of it goes back to the end of the generation
// before, and what anybody was told of is there.
func TestPostgresLostWhileANewGenerationOpens(t *testing.T) {
	s := newPostgres(t, pglab.Config{}, tidegate.ModeSync, tidegate.Bounds{})
	s.losesLog(t)
	s.within(t, func(ctx context.Context) error { return s.pg.Stall(ctx, 0) })
	if err := s.Proc("agent-p1").Start(); err != nil {
		t.Fatal(err)
	}
	s.declares(t)
	s.opening(t, 2)
	s.lose(t)
}

// lose loses the site; nobody misses anything.
func (s *pgStage) lose(t *testing.T) {
	t.Helper()
	s.within(t, func(ctx context.Context) error {
		_, err := s.pg.Lose(ctx, s.clients, "the test lost the site")
		return err
	})
	if loss := s.compare(t); loss.Lost > 0 {
		t.Errorf("%d commits are lost that clients were told of", loss.Lost)
	}
}

// declaredOnce checks what is on the record.
func (s *pgStage) declaredOnce(t *testing.T) {
	t.Helper()
	out := s.operate(t, 0, "audit")
	if n := strings.Count(out, "gap-accept"); n != 1 {
		t.Errorf("declared %d times:\n%s", n, out)
	}
	// The log goes on: there is nothing to declare any more.
	s.operate(t, 4, "gap", "accept", "--reason", "once more", "ledger/main")
	s.operate(t, 4, "streams", "regenerate", "--reason", "once more", "ledger/main")
}
