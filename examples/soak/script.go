package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
)

// deed is one thing done to one process.
type deed struct {
	at   time.Duration // since the load began
	name string
	kill bool // else start
}

func (d deed) String() string {
	if d.kill {
		return fmt.Sprintf("%5.1fs kill -9 %s", d.at.Seconds(), d.name)
	}
	return fmt.Sprintf("%5.1fs start   %s", d.at.Seconds(), d.name)
}

// site is how many of each there are, which decides what may die together.
type site struct {
	primaries, standbys []string
	w                   int
}

// processes lists what may be killed under load.
func (s site) processes() []string {
	out := []string{"gate", "route"}
	for _, m := range s.primaries {
		out = append(out, "ledger-"+m, "agent-"+m)
	}
	for _, m := range s.standbys {
		out = append(out, "standby-"+m, "agent-"+m, "ledger-"+m)
	}
	return out
}

// tolerates reports whether name may go down while down are: no more than N-W
// standby nodes, and a minority of raft, which on three nodes is one. Anything
// else may die with anything: it stops progress, never safety.
func (s site) tolerates(down []string, name string) bool {
	if slices.Contains(down, name) {
		return false
	}
	count := func(kind string, machines []string) (n int) {
		for _, m := range machines {
			if slices.Contains(down, kind+m) {
				n++
			}
		}
		return n
	}
	machine := name[strings.IndexByte(name, '-')+1:]
	switch {
	case strings.HasPrefix(name, "standby-"):
		return count("standby-", s.standbys) < len(s.standbys)-s.w
	case strings.HasPrefix(name, "ledger-") && slices.Contains(s.primaries, machine):
		return count("ledger-", s.primaries) < (len(s.primaries)-1)/2
	}
	return true
}

const (
	killEvery  = 2 * time.Second // at least, from one kill to the next
	killSpread = time.Second     // and at most so much more
	downMin    = 100 * time.Millisecond
	downSpread = 1900 * time.Millisecond
	// A process that has been started still counts as down for so long: it has
	// to read its disk and find the others.
	settling = 1500 * time.Millisecond
	pairOdds = 4 // one in so many kills takes two at once
)

// script draws what happens to whom in a round of the given length. All are up
// again at its end. The same seed draws the same script.
func (s site) script(rng *rand.Rand, length time.Duration) []deed {
	all := s.processes()
	var deeds []deed
	back := map[string]time.Duration{} // when a process counts as up again
	for at := killEvery / 2; at < length; at += killEvery + time.Duration(rng.Int64N(int64(killSpread))) {
		victims := 1
		if rng.IntN(pairOdds) == 0 {
			victims = 2
		}
		for range victims {
			var down, may []string
			for _, name := range all {
				if back[name] > at {
					down = append(down, name)
				}
			}
			for _, name := range all {
				if s.tolerates(down, name) {
					may = append(may, name)
				}
			}
			name := may[rng.IntN(len(may))]
			up := at + downMin + time.Duration(rng.Int64N(int64(downSpread)))
			back[name] = up + settling
			deeds = append(deeds, deed{at: at, name: name, kill: true}, deed{at: up, name: name})
		}
	}
	slices.SortStableFunc(deeds, func(a, b deed) int { return int(a.at - b.at) })
	return deeds
}

// disaster is how a round's primary site is lost.
type disaster string

const (
	killed disaster = "killed"
	frozen disaster = "frozen" // cut off first, then stopped; thawed after the failover
)

// round is what a round's seed decides.
type round struct {
	number   int
	seed     uint64
	mode     tidegate.Mode
	bounds   tidegate.Bounds
	disaster disaster
	deeds    []deed
	missing  string // standby node that is down during the failover, too; empty for none
}

// bites are bounds of which one is small enough to close the gate while the site
// is cut off, each in turn: a transfer is a record of some 96 bytes.
var bites = []tidegate.Bounds{
	{Records: 200, Bytes: 256 << 10, Window: time.Second},
	{Records: 5000, Bytes: 12 << 10, Window: time.Second},
	{Records: 5000, Bytes: 256 << 10, Window: 300 * time.Millisecond},
}

// drawRound draws round number of the run with that seed: by its number alone,
// so that one round can be replayed without those before it.
func drawRound(seed uint64, number int, s site, length time.Duration) round {
	rng := rand.New(rand.NewPCG(seed, uint64(number))) //nolint:gosec // a round's number is small and positive
	r := round{number: number, seed: seed, mode: tidegate.ModeSync, disaster: killed}
	frozenOdds := 2 // of four
	if number%2 == 0 {
		r.mode, r.bounds = tidegate.ModeBounded, bites[(number/2-1)%len(bites)]
		frozenOdds = 3 // a site that is cut off and goes on is what the bounds are for
	}
	r.deeds = s.script(rng, length)
	if rng.IntN(4) < frozenOdds {
		r.disaster = frozen
	}
	// The last one, because a failover chooses the first that qualifies.
	if last := "standby-" + s.standbys[len(s.standbys)-1]; rng.IntN(3) == 0 && s.tolerates(nil, last) {
		r.missing = last
	}
	return r
}

func (r round) kills() (n int) {
	for _, d := range r.deeds {
		if d.kill {
			n++
		}
	}
	return n
}
