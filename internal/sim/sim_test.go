package sim

import (
	"bytes"
	"flag"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/racetest"
)

var (
	oneSeed = flag.Uint64("seed", 0, "run this seed alone and print its trace")
	seeds   = flag.Uint64("seeds", 2000, "how many seeds to run; a tenth of them with -short")
	from    = flag.Uint64("from", 1, "first seed")
)

// worlds runs seeds from on, as many at a time as there are processors, and calls
// each with every result, one at a time and in no order. It stops when each says so.
func worlds(from, n uint64, each func(Result) (goOn bool)) {
	var (
		next atomic.Uint64
		stop atomic.Bool
		mu   sync.Mutex
		wg   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= n {
					return
				}
				r := Run(Options{Seed: from + i})
				mu.Lock()
				if !stop.Load() && !each(r) {
					stop.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// apart runs this package's tests in another test binary, and shows what it says of
// its worlds.
func apart(t *testing.T, args ...string) {
	t.Helper()
	racetest.Run(t, func(line string) bool {
		return slices.ContainsFunc([]string{"seed", "nothing noticed", "failovers,", "crashes,"}, func(word string) bool { return strings.Contains(line, word) })
	}, args...)
}

func (r *Result) add(o Result) {
	r.Events += o.Events
	r.Virtual += o.Virtual
	r.Failovers += o.Failovers
	r.Declared += o.Declared
	r.Switchovers += o.Switchovers
	r.Aborted += o.Aborted
	r.Acquires += o.Acquires
	r.Refused += o.Refused
	r.Crashes += o.Crashes
	r.Wipes += o.Wipes
	r.Damages += o.Damages
	r.Degraded += o.Degraded
	r.Batches += o.Batches
	r.Acked += o.Acked
	r.Lost += o.Lost
}

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
	switch {
	case testing.Short():
		n /= 10
	case racetest.Enabled:
		// All of them in a binary that is fast, and some here: a world is one goroutine,
		// and what worlds might share shows as soon as two of them run at once.
		apart(t, "-run", "^TestSeeds$", "-seeds", strconv.FormatUint(n, 10), "-from", strconv.FormatUint(*from, 10))
		n /= 50
	}
	var sum Result
	began := time.Now()
	failed, small, idle := 0, 0, 0
	worlds(*from, n, func(r Result) bool {
		if r.Violation != "" {
			t.Errorf("seed %d: %s\n%s\nreplay: go test ./internal/sim -run TestSeeds -seed %d", r.Seed, r.Violation, r.Shape, r.Seed)
			failed++
		}
		sum.add(r)
		if r.Events < 5000 {
			small++
		}
		if r.Failovers+r.Switchovers == 0 {
			idle++
		}
		return failed < 20
	})
	took := time.Since(began)
	t.Logf("%d seeds in %s: %.0f seeds/s, %d events/seed (%d below 5000), %s virtual", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), sum.Events/int(n), small, sum.Virtual)
	t.Logf("%d failovers, %d declared by the detector, %d switchovers, %d called off, %d acquires, %d refused; %d seeds without a change of role",
		sum.Failovers, sum.Declared, sum.Switchovers, sum.Aborted, sum.Acquires, sum.Refused, idle)
	t.Logf("%d crashes, %d wipes, %d damages, %d degradations, %d batches durable, %d records acknowledged, %d lost as claimed",
		sum.Crashes, sum.Wipes, sum.Damages, sum.Degraded, sum.Batches, sum.Acked, sum.Lost)
}

func TestSameSeedSameRun(t *testing.T) {
	if racetest.Apart(t) {
		return
	}
	for seed := uint64(1); seed <= 8; seed++ {
		var a, b bytes.Buffer
		Run(Options{Seed: seed, Trace: &a})
		Run(Options{Seed: seed, Trace: &b})
		if a.Len() == 0 || !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Fatalf("seed %d: two runs differ: %d and %d bytes of trace", seed, a.Len(), b.Len())
		}
	}
}
