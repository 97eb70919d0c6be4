package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
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

// declares does what the doctor says, once it says so.
func (s *pgStage) declares(t *testing.T) {
	t.Helper()
	const stream, yes = "ledger/main", "streams regenerate"
	s.until(t, "the doctor to name the command", func(ctx context.Context) error {
		out, _ := s.Tidegate(ctx, "doctor") // it ends with 1 while something is wrong
		if !strings.Contains(string(out), yes) {
			return errors.New(string(out))
		}
		return nil
	})
	s.operate(t, 2, "streams", "regenerate", stream)
	if out := s.operate(t, 0, "streams", "regenerate", "--dry-run", stream); !strings.Contains(out, "log-lost") || !strings.Contains(out, "nothing changed") {
		t.Errorf("dry run: %s", out)
	}
	s.operate(t, 0, "streams", "regenerate", "--reason", "the slot was dropped", stream)
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
	s := newPostgres(t, pglab.Config{}, tidegate.ModeSync, tidegate.Bounds{})
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
	s.lose(t)
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
	if n := strings.Count(out, "stream-regenerate"); n != 1 {
		t.Errorf("declared %d times:\n%s", n, out)
	}
	// The log goes on: there is nothing to declare any more.
	s.operate(t, 4, "streams", "regenerate", "--reason", "once more", "ledger/main")
}
