package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
)

var (
	tpsLine     = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)
	latencyLine = regexp.MustCompile(`(?m)^latency average = ([0-9.]+) ms`)
)

// BenchmarkPostgresCommits is pgbench against one server that waits for nobody, for
// PostgreSQL's own pg_receivewal, and for the agent with a standby node that takes
// no time, over the loopback. It is a comparison: everything shares one machine.
func BenchmarkPostgresCommits(b *testing.B) {
	w := newWorld(b, "s1")
	h := w.postgres(pgtest.New(b, pgtest.Config{Settings: map[string]string{"fsync": "on"}}))
	h.pg.BenchInit(b, 10)
	run := func(b *testing.B, clients string) {
		for b.Loop() {
			out := h.pg.Tool(b, "pgbench", "-n", "-N", "-c", clients, "-t", "500")
			report := func(re *regexp.Regexp, unit string) {
				if m := re.FindStringSubmatch(out); m != nil {
					v, _ := strconv.ParseFloat(m[1], 64)
					b.ReportMetric(v, unit)
				}
			}
			report(tpsLine, "tps")
			report(latencyLine, "ms/commit")
		}
	}
	names := func(b *testing.B, to string) {
		h.pg.SQL(b, "ALTER SYSTEM SET synchronous_standby_names = '"+to+"'")
		h.pg.SQL(b, "SELECT pg_reload_conf()")
		h.pg.UntilSQL(b, "SHOW synchronous_standby_names", to)
	}
	for _, clients := range []string{"1", "8"} {
		b.Run("waits=nobody/clients="+clients, func(b *testing.B) { run(b, clients) })
		b.Run("waits=pg_receivewal/clients="+clients, func(b *testing.B) {
			dir := filepath.Join(h.pg.Dir, "received"+clients)
			if err := os.Mkdir(dir, 0o700); err != nil {
				b.Fatal(err)
			}
			h.pg.Give(b, dir, 0o700)
			p := h.pg.Install.Start(b, append(h.pg.Env(), "PGAPPNAME=native"), "pg_receivewal", "-D", dir, "--synchronous", "--no-loop")
			h.pg.UntilSQL(b, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'native' AND state = 'streaming'", "1")
			names(b, "native")
			run(b, clients)
			names(b, "")
			p.Stop()
		})
		b.Run("waits=agent/clients="+clients, func(b *testing.B) {
			h.start()
			h.caughtUp()
			names(b, "tidegate")
			run(b, clients)
			names(b, "")
			h.stop()
		})
	}
}
