package sim

import (
	"bytes"
	"flag"
	"os"
	"testing"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed alone and print its trace")
	seeds   = flag.Uint64("seeds", 300, "how many seeds to run; a quarter of them with -short")
	from    = flag.Uint64("from", 1, "first seed")
)

func TestSeeds(t *testing.T) {
	if *oneSeed != 0 {
		r := Run(Options{Seed: *oneSeed, Trace: os.Stdout})
		t.Logf("%+v", r)
		if r.Violation != "" {
			t.Fatal(r.Violation)
		}
		return
	}
	n := *seeds
	if testing.Short() {
		n /= 4
	}
	var sum Result
	for s := *from; s < *from+n; s++ {
		r := Run(Options{Seed: s})
		if r.Violation != "" {
			t.Errorf("seed %d: %s\n%s\nreplay: go test ./internal/sim -run TestSeeds -seed %d", s, r.Violation, r.Shape, s)
		}
		sum.Events += r.Events
		sum.Virtual += r.Virtual
		sum.Failovers += r.Failovers
		sum.Acquires += r.Acquires
		sum.Refused += r.Refused
		sum.Crashes += r.Crashes
		sum.Wipes += r.Wipes
		sum.Released += r.Released
	}
	t.Logf("%d seeds: %d events, %s virtual, %d failovers, %d acquires, %d refused, %d crashes, %d wipes, %d batches released",
		n, sum.Events, sum.Virtual, sum.Failovers, sum.Acquires, sum.Refused, sum.Crashes, sum.Wipes, sum.Released)
}

func TestSameSeedSameRun(t *testing.T) {
	var a, b bytes.Buffer
	Run(Options{Seed: 7, Trace: &a})
	Run(Options{Seed: 7, Trace: &b})
	if a.Len() == 0 || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Fatalf("two runs of one seed differ: %d and %d bytes of trace", a.Len(), b.Len())
	}
}
