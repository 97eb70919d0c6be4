package lab_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// primary runs SQL on the primary, which must not fail.
func (s *pgStage) primary(t *testing.T, sql string) string {
	t.Helper()
	out, err := s.pg.Primary.Text(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// onWarm runs SQL on the warm server, which must not fail.
func (s *pgStage) onWarm(t *testing.T, sql string) string {
	t.Helper()
	out, err := s.pg.Warm(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// untilSays waits until a server answers a query with want.
func (s *pgStage) untilSays(t *testing.T, query func(context.Context, string) (string, error), sql, want string) {
	t.Helper()
	s.until(t, sql+" to be "+want, func(ctx context.Context) error {
		got, err := query(ctx, sql)
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

// showsWhatItConfirms checks that a commit which was confirmed at remote_apply is
// there to be read on the warm server, under load; and that it waits while that
// server does not replay, which others do not wait for.
func (s *pgStage) showsWhatItConfirms(t *testing.T) {
	t.Helper()
	s.primary(t, "CREATE TABLE shown (n int)")
	const rows = 30
	for n := range rows {
		s.primary(t, fmt.Sprintf("SET synchronous_commit = remote_apply; INSERT INTO shown VALUES (%d)", n))
		if got := s.onWarm(t, fmt.Sprintf("SELECT count(*) FROM shown WHERE n = %d", n)); got != "1" {
			t.Fatalf("row %d was confirmed at remote_apply, and the warm server shows %s of it", n, got)
		}
	}
	s.onWarm(t, "SELECT pg_wal_replay_pause()")
	s.untilSays(t, s.pg.Warm, "SELECT pg_get_wal_replay_pause_state()", "paused")
	done := make(chan error, 1)
	go func() { // ends with the commit, or with the server
		_, err := s.pg.Primary.Text(context.Background(), fmt.Sprintf("SET synchronous_commit = remote_apply; INSERT INTO shown VALUES (%d)", rows))
		done <- err
	}()
	s.untilSays(t, s.pg.Primary.Text, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%INTO shown%'", "1")
	s.more(t, 50) // at synchronous_commit on
	select {
	case err := <-done:
		t.Fatalf("a commit at remote_apply did not wait for a server that does not replay: %v", err)
	default:
	}
	s.onWarm(t, "SELECT pg_wal_replay_resume()")
	s.within(t, func(ctx context.Context) error {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return errors.New("the commit still waits")
		}
	})
	if got := s.onWarm(t, fmt.Sprintf("SELECT count(*) FROM shown WHERE n = %d", rows)); got != "1" {
		t.Fatalf("the row that waited was confirmed, and the warm server shows %s of it", got)
	}
}

// keepsWhatIsRead checks that VACUUM on the primary leaves the rows which a read on
// the warm server needs, and takes them once it has ended.
func (s *pgStage) keepsWhatIsRead(t *testing.T) {
	t.Helper()
	reader, err := pgconn.Connect(t.Context(), s.pg.WarmConn())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.Background())
	count := func(begin string) string {
		t.Helper()
		results, err := reader.Exec(t.Context(), begin+"SELECT count(*) FROM shown").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return string(results[len(results)-1].Rows[0][0])
	}
	had := count("BEGIN ISOLATION LEVEL REPEATABLE READ; ")
	xmin := s.onWarm(t, fmt.Sprintf("SELECT backend_xmin FROM pg_stat_activity WHERE pid = %d", reader.PID()))
	const kept = "SELECT xmin FROM pg_replication_slots WHERE slot_name = 'tidegate'"
	s.untilSays(t, s.pg.Primary.Text, kept, xmin)

	const sizes = "SELECT pg_relation_size('shown') > 0"
	s.primary(t, "SET synchronous_commit = remote_apply; DELETE FROM shown")
	s.primary(t, "VACUUM shown")
	if got := s.primary(t, sizes); got != "t" {
		t.Error("VACUUM took rows that are being read at the other site")
	}
	if got := count(""); got != had || had == "0" {
		t.Errorf("the reader at the other site counts %s rows, had counted %s", got, had)
	}
	if _, err := reader.Exec(t.Context(), "COMMIT").ReadAll(); err != nil {
		t.Fatal(err)
	}
	s.until(t, "the rows to be let go", func(ctx context.Context) error {
		if _, err := s.pg.Primary.Query(ctx, "VACUUM shown"); err != nil {
			return err
		}
		got, err := s.pg.Primary.Text(ctx, sizes)
		if err == nil && got != "f" {
			err = errors.New("they are still there")
		}
		return err
	})
}
