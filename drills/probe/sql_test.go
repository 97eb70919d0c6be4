package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pgtest"
)

// TestSQL: a real server is asked by its socket and over TLS; what is not the wanted
// answer is said, and no password is.
func TestSQL(t *testing.T) {
	t.Parallel()
	const secret = "watchword"
	s := pgtest.New(t, pgtest.Config{})
	s.SQL(t, "CREATE TABLE c (id text PRIMARY KEY, n int); CREATE ROLE dora LOGIN PASSWORD '"+secret+"'; GRANT ALL ON c TO dora")
	passfile := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(passfile, []byte("*:*:*:*:"+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := New(clock.System(), somewhere{"{run}": s.SocketDir, "{address:sql}": s.Host + ":5432", "{canary}": "0123456789abcdef"}, nil)
	socket := "host={run} user=" + pgtest.Superuser + " dbname=postgres"
	tls := "postgres://dora@{address:sql}/postgres?sslmode=verify-full&sslrootcert=" + s.CAFile() + "&passfile=" + passfile
	canary := Canary{Name: "one", Write: Ask{SQL: &SQL{Where: tls, Query: "INSERT INTO c VALUES ('{canary}', NULL)"}}}.WithDefaults()
	if c, err := k.Canary(t.Context(), &canary); err != nil || *c.Got != "INSERT 0 1" {
		t.Fatalf("%+v, %v", c, err)
	}
	for name, tc := range map[string]struct {
		sql  SQL
		got  string
		fail string // empty: it passes
	}{
		"read back":        {SQL{Where: socket, Query: "SELECT id FROM c", Want: "{canary}", Contains: "abc"}, "0123456789abcdef", ""},
		"any answer":       {SQL{Where: socket, Query: "SELECT 7 UNION ALL SELECT 8"}, "7", ""},
		"another":          {SQL{Where: socket, Query: "SELECT 77", Want: "7"}, "77", "got 77"},
		"no row is no 0":   {SQL{Where: socket, Query: "SELECT n FROM c WHERE id = ''", Contains: "0"}, "no row", "got no row"},
		"null is no text":  {SQL{Where: socket, Query: "SELECT n FROM c", Contains: "null"}, "null", "got null"},
		"nothing wanted":   {SQL{Where: socket, Query: "SELECT n FROM c"}, "null", ""},
		"tag":              {SQL{Where: socket, Query: "UPDATE c SET n = 1 WHERE false", Want: "UPDATE 0"}, "UPDATE 0", ""},
		"fails later":      {SQL{Where: socket, Query: "SELECT 1 / (3 - g) FROM generate_series(1, 3) g", Want: "0"}, "", "division by zero"},
		"two statements":   {SQL{Where: socket, Query: "SELECT 1; SELECT 2"}, "", "cannot insert multiple commands"},
		"echoes a secret":  {SQL{Where: tls, Query: "SELECT 'the " + secret + "'", Contains: "x"}, "the (password)", "got the (password)"},
		"fails by it":      {SQL{Where: tls, Query: "SELECT '" + secret + "'::int"}, "", `invalid input syntax for type integer: "(password)"`},
		"not within limit": {SQL{Where: socket, Query: "SELECT pg_sleep(60)"}, "", "no answer within 300ms"},
		"too long":         {SQL{Where: socket, Query: "SELECT repeat('x', 2000000)"}, "", "expected at most 1048576"},
	} {
		a := Ask{SQL: &tc.sql, Timeout: time.Minute}
		if strings.HasPrefix(tc.fail, "no answer") {
			a.Timeout = 300 * time.Millisecond
		}
		c := k.Check(t.Context(), name, a.Kind(), &a)
		got := ""
		if c.Got != nil {
			got = *c.Got
		}
		if (c.Outcome == evidence.CheckPassed) != (tc.fail == "") || got != tc.got || !strings.Contains(c.Why, tc.fail) || strings.Contains(got+c.Why, secret) {
			t.Errorf("%s: %+v, got %q", name, c, got)
		}
	}
}

// TestPasswordOfSomebodyElse: the environment's is not offered to the asked server.
func TestPasswordOfSomebodyElse(t *testing.T) {
	t.Setenv("PGPASSWORD", "watchword")
	if cfg, err := connection("host=/run/x user=dora dbname=bank"); err != nil || cfg.Password != "" {
		t.Errorf("%v", err)
	}
	if _, err := connection("host=/run/x user=dora dbname=bank passfile=/etc/pgpass"); err == nil || strings.Contains(err.Error(), "watchword") {
		t.Errorf("%v", err)
	}
}
