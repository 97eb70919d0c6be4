package pgrun_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// A copy takes in the log of a server that was killed, as far as it is told to.
func TestRecoverTo(t *testing.T) {
	s := own(t)(pgrun.New(pgrun.Config{Settings: map[string]string{"wal_keep_size": "1GB"}}))
	ask := func(s *pgrun.Server, sql string) string {
		t.Helper()
		got, err := s.Text(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	ask(s, "CREATE TABLE n (n int)")
	half, whole := own(t)(s.Copy("-half", pgrun.Config{})), own(t)(s.Copy("-whole", pgrun.Config{}))
	ask(s, "INSERT INTO n SELECT generate_series(1, 100)")
	at := ask(s, "SELECT pg_current_wal_lsn()")
	ask(s, "INSERT INTO n SELECT generate_series(1, 100)")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		copy     *pgrun.Server
		to, want string
	}{{half, at, "100"}, {whole, "", "200"}} {
		if err := errors.Join(c.copy.RecoverTo(filepath.Join(s.DataDir, "pg_wal"), c.to), c.copy.Start()); err != nil {
			t.Fatal(err)
		}
		if err := pgrun.Poll(t.Context(), func(ctx context.Context) error {
			is, err := c.copy.Text(ctx, "SELECT pg_is_in_recovery()")
			if err == nil && is != "f" {
				err = errors.New("it recovers")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got := ask(c.copy, "SELECT count(*) FROM n"); got != c.want {
			t.Errorf("recovered to %q: %s rows, want %s", c.to, got, c.want)
		}
	}
	if got := ask(half, "SELECT pg_last_wal_replay_lsn()"); got != at {
		t.Errorf("recovered to %s, want %s", got, at)
	}
}

func own(t *testing.T) func(*pgrun.Server, error) *pgrun.Server {
	return func(s *pgrun.Server, err error) *pgrun.Server {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
}
