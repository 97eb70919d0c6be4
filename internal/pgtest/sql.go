package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// SQL is Query as psql -At prints it: columns parted by "|", rows by
// line ends. The test fails when a statement does.
func (s *Server) SQL(tb testing.TB, sql string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	text, err := s.Text(ctx, sql)
	must(tb, err)
	return text
}

// Poll calls cond, which may take its time, until it returns nil, a few times a
// second, and gives cond's last error when ctx ends.
func Poll(ctx context.Context, cond func(context.Context) error) error { return pgrun.Poll(ctx, cond) }

// Until waits until cond returns nil; the test fails after a minute.
func Until(tb testing.TB, what string, cond func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := Poll(ctx, cond); err != nil {
		tb.Fatalf("waiting for %s: %v", what, err)
	}
}

// UntilSQL waits until a query's answer, as [Server.SQL] gives it, is want.
func (s *Server) UntilSQL(tb testing.TB, sql, want string) {
	tb.Helper()
	Until(tb, fmt.Sprintf("%s: %s to be %q", s.Name, sql, want), func(ctx context.Context) error {
		got, err := s.Text(ctx, sql)
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}
