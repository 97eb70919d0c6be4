package pglab

import (
	"context"
	"fmt"
	"strconv"
)

// ScaleBytes is what a unit of pgbench's scale takes on disk.
const ScaleBytes = 15 << 20

// Drill is the part of a drill's file that is the server's: a canary, and a check that
// pgbench's work is there. The caller may change it.
func Drill() map[string]any {
	const where = "host={run} user=postgres dbname=postgres"
	sql := func(query, want string) map[string]any {
		return map[string]any{"sql": map[string]any{"where": where, "query": query, "want": want}}
	}
	check := sql("SELECT count(*) > 0 FROM pgbench_history", "t")
	check["name"] = "history"
	return map[string]any{
		"postgres": map[string]any{},
		"canaries": []map[string]any{{
			"name": "table", "write": sql("CREATE TABLE drill_{canary} (n int)", ""),
			"read": sql("SELECT relname FROM pg_class WHERE relname = 'drill_{canary}'", "drill_{canary}"),
		}},
		"checks": []map[string]any{check},
	}
}

// Rewrite writes a fifth of one branch's accounts anew, some megabytes of log, and leaves
// the others to pgbench. n counts the calls.
func (l *Lab) Rewrite(ctx context.Context, n int) error {
	first := (n % l.cfg.Scale) * 100_000
	_, err := l.Primary.Text(ctx, fmt.Sprintf("UPDATE pgbench_accounts SET filler = filler WHERE aid > %d AND aid <= %d", first, first+20_000))
	return err
}

// Behind is how many bytes of log the primary has that the warm server has not replayed.
func (l *Lab) Behind(ctx context.Context) (int64, error) {
	at, err := l.Warm(ctx, "SELECT pg_last_wal_replay_lsn()")
	if err != nil {
		return 0, err
	}
	return l.Beyond(ctx, at)
}

// Beyond is how many bytes of log the primary has behind a position, as PostgreSQL
// prints them.
func (l *Lab) Beyond(ctx context.Context, lsn string) (int64, error) {
	text, err := l.Primary.Text(ctx, fmt.Sprintf("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '%s')::bigint", lsn))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}
