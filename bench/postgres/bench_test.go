//go:build bench

package postgres

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	bin    = flag.String("bin", "", "folder of the binaries")
	rounds = flag.Int("rounds", 5, "rounds of each measurement")
	size   = flag.Int64("size", 2048, "MiB of log in a backlog")
	span   = flag.Duration("span", 4*time.Second, "of one turn of a measurement of latency")
	only   = flag.String("only", "backlog,catchup,sync,bounded", "which measurements")
)

// TestBench prints what it measured; it fails when something could not be measured,
// not when a target is missed.
func TestBench(t *testing.T) {
	if *bin == "" {
		t.Fatal("want -bin, the folder of the binaries: make bench-postgres")
	}
	began := time.Now()
	var out report
	out.line("%d cores, load at the start %s; %d rounds in turns, medians (and ranges)", runtime.NumCPU(), load(), *rounds)
	chosen := strings.Split(*only, ",")
	for _, m := range []struct {
		name string
		run  func(*testing.T, *report)
	}{{"backlog", benchBacklog}, {"catchup", benchCatchUp}, {"sync", benchSync}, {"bounded", benchBounded}} {
		if slices.Contains(chosen, m.name) {
			t.Run(m.name, func(t *testing.T) {
				before := load()
				m.run(t, &out)
				out.line("  (load %s before, %s after)\n", before, load())
			})
		}
	}
	fmt.Printf("\n%stook %s\n", out.String(), time.Since(began).Round(time.Second))
}

func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	now, _, _ := strings.Cut(string(b), " ")
	return now
}
