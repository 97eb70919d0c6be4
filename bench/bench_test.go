package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// The limit's peer is this program again, which in a test is the test's binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == peerCommand {
		os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// Whether the targets are reached is not a test's business: the machine that
// runs tests is never quiet.
func TestQuick(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binaries and runs real processes")
	}
	// Below /tmp, because a socket's path must fit into 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "tidegate-bench-test-") //nolint:usetesting // t.TempDir's path is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin+"/", "./cmd/tidegate", "./cmd/tidegate-agent")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	results := filepath.Join(dir, "results.json")
	args := []string{"bench", "--quick", "--only", "b1,b2,b3,b4", "--bin", bin, "--dir", filepath.Join(dir, "run"), "--sizes", "125", "--rtt", "20ms", "--json", results}
	var out, errs bytes.Buffer
	if code := run(ctx, args, &out, &errs); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Trips) != 2 || len(r.Pumps) != 2 || r.Replay == nil {
		t.Fatalf("%d rows of B1, %d of B2, B3 %v; want one for N=1 and one for N=3 each, and B3", len(r.Trips), len(r.Pumps), r.Replay != nil)
	}
	for _, row := range r.Trips {
		if row.Product.P50 <= 0 || row.Limit.P50 <= 0 || row.Ratio.Median <= 0 {
			t.Errorf("B1 at N=%d measured nothing: %+v", row.N, row)
		}
	}
	for _, row := range r.Pumps {
		if row.MB.Median <= 0 || row.Limit.Median <= 0 || row.Group <= 0 || row.Agent <= 0 || row.Standby <= 0 {
			t.Errorf("B2 at N=%d measured nothing: %+v", row.N, row)
		}
	}
	if len(r.Distances) != 1 {
		t.Fatalf("%d rows of B4, want one", len(r.Distances))
	}
	if d := r.Distances[0]; d.Open.Median <= 0 || d.Sync.Median <= 0 || d.Wait.P50 < 20_000 {
		t.Errorf("B4 measured nothing, or no distance: %+v", d)
	}
	if !r.Agent.Stripped {
		t.Error("the stripped agent counts as not stripped")
	}
	for _, want := range []string{"B1:", "B2:", "B3:", "B4:", "Agent binary", "target"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestPlanReportsEveryMistake(t *testing.T) {
	var out, errs bytes.Buffer
	code := run(t.Context(), []string{"bench", "--bin", ".", "--sizes", "0", "--nodes", "x", "--only", "b9", "--rtt", "far", "--rounds", "0", "--pgsize", "some", "--backlog", "0", "--rate", "fast", "--accounts", "0"}, &out, &errs)
	if code == 0 {
		t.Fatal("a wrong command line was taken")
	}
	for _, want := range []string{"--sizes", "--nodes", "--only", "--rtt", "--rounds", "--pgsize", "--backlog", "--rate", "--accounts"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("%q lacks %s", errs.String(), want)
		}
	}
}

// The history that B3 replays must be carried out, not refused: refusals are cheap.
func TestCommandsAreCarriedOut(t *testing.T) {
	state := ledger.New(ledger.EUR)
	for i := range 5 * replayAccounts {
		c := command(i)
		rec, err := c.Append(nil)
		if err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
		first := state.Position()
		o, err := state.Apply(first, first+tidegate.Position(len(rec)), rec)
		if err != nil || o.Code != ledger.Done || o.Duplicate {
			t.Fatalf("command %d (%s): %+v, %v", i, c.Kind, o, err)
		}
	}
}
