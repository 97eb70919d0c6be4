package lab_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// make soak-postgres plays more rounds than the tests do.
var (
	pgRounds = flag.Int("pg-rounds", 1, "rounds of TestPostgresRounds in each mode")
	pgSeed   = flag.Uint64("pg-seed", 1, "seed of the rounds")
	pgFrom   = flag.Int("pg-from", 1, "first round")
)

// pgBounds are a bounded round's: T is what binds under this load.
var pgBounds = tidegate.Bounds{Records: 5000, Window: 500 * time.Millisecond}

// pgRound is what the seed decides of a round, by its number alone: so one can be
// replayed without those before it.
type pgRound struct {
	number  int
	mode    tidegate.Mode
	replica bool
	commits int           // that clients are told of before the link stops, or the site is lost
	stalled time.Duration // for how long before the loss nothing is shipped; 0: the link works until then
}

func drawPgRound(seed uint64, number int, mode tidegate.Mode) pgRound {
	rng := rand.New(rand.NewPCG(seed, uint64(number)<<8|uint64(len(mode)))) //nolint:gosec // a number that only has to differ
	r := pgRound{number: number, mode: mode, replica: rng.IntN(2) == 0, commits: 100 + rng.IntN(2000)}
	// Half of the sites are lost while the link carries nothing: in bounded mode that is
	// what costs anything, in sync the commits of those who wait must not count. The
	// first round is one of them, because it is all that the tests play.
	if number == 1 || rng.IntN(2) == 0 {
		r.stalled = 300*time.Millisecond + time.Duration(rng.Int64N(int64(time.Second)))
	}
	return r
}

func (r pgRound) String() string {
	s := fmt.Sprintf("%s %d", r.mode, r.number)
	if r.stalled > 0 {
		s += fmt.Sprintf(", link stopped for %s", r.stalled.Round(time.Millisecond))
	}
	if r.replica {
		s += ", with a replica"
	}
	return s
}

// pgOutcome is a round that was played.
type pgOutcome struct {
	round    pgRound
	takeover pglab.Takeover
	verdict  pglab.Verdict
}

// A site with a PostgreSQL server is killed at a random moment under pgbench, round
// after round. Clients find every commit that they were told of, or in bounded
// mode miss no more than the bounds; and what was promoted holds, to the row, what
// PostgreSQL itself recovers from the dead primary's log up to the same position.
func TestPostgresRounds(t *testing.T) {
	var played []pgOutcome
	for n := range *pgRounds {
		for _, mode := range []tidegate.Mode{tidegate.ModeSync, tidegate.ModeBounded} {
			r := drawPgRound(*pgSeed, *pgFrom+n, mode)
			t.Run(fmt.Sprintf("%s-%d", mode, r.number), func(t *testing.T) {
				o := playPgRound(t, r)
				played = append(played, o)
				t.Log(o)
				for _, err := range o.verdict.Broken {
					t.Errorf("round %s, seed %d: %v", r, *pgSeed, err)
				}
			})
		}
	}
	t.Logf("%d of %d rounds were played to their end\n%s", len(played), 2**pgRounds, pgMedians(played))
}

func playPgRound(t *testing.T, r pgRound) pgOutcome {
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("round %s, seed %d: %v", r, *pgSeed, err)
		}
	}
	l, dir := newPgLab(t, pglab.Config{Replica: r.replica})
	must(l.Up(ctx, func(string) {}))
	must(l.Gate(ctx, r.mode, pgBounds))
	level := pglab.Level(r.mode)
	clients, err := l.StartClients(4, level, filepath.Join(dir, "told"))
	must(err)
	t.Cleanup(func() {
		if err := clients.Stop(); err != nil {
			t.Error(err)
		}
	})
	bench, err := l.Primary.Bench([]string{"PGOPTIONS=-c synchronous_commit=" + level}, "-c", "2")
	must(err)
	t.Cleanup(bench.Kill)
	must(l.More(ctx, clients, r.commits))
	if r.stalled > 0 {
		must(l.Stall(ctx, r.stalled))
	}
	o := pgOutcome{round: r}
	o.takeover, err = l.Lose(ctx, clients, "round "+r.String())
	must(err)
	o.verdict, err = l.Judge(ctx, clients, r.mode, pgBounds, o.takeover.Plan)
	must(err)
	return o
}

func (o pgOutcome) String() string {
	v, t := o.verdict, o.takeover
	return fmt.Sprintf("%s: told of %d commits, %d lost over %s, claimed %s; beyond the fork %s: %s; pgbench's tables equal at the fork: %.8s; failover %s, RTO %s (%s)",
		o.round, v.Loss.Told, v.Loss.Lost, v.Loss.Over.Round(time.Millisecond), pglab.ClaimText(v.Claim), v.Fork, v.Tail,
		v.Digest, t.Took.Round(time.Millisecond), t.RTO.Round(time.Millisecond), pglab.PhasesText(t.Plan))
}

// pgMedians sums up the rounds of each mode.
func pgMedians(played []pgOutcome) string {
	s := fmt.Sprintf("%-8s %7s %9s %6s %10s %10s %14s %14s %14s\n", "mode", "rounds", "told", "lost", "most lost", "over", "failover p50", "RTO p50", "RTO max")
	for _, mode := range []tidegate.Mode{tidegate.ModeSync, tidegate.ModeBounded} {
		var told, lost, most, n int
		var over time.Duration
		var took, rto []time.Duration
		for _, o := range played {
			if o.round.mode != mode {
				continue
			}
			n++
			told, lost, most = told+o.verdict.Loss.Told, lost+o.verdict.Loss.Lost, max(most, o.verdict.Loss.Lost)
			over = max(over, o.verdict.Loss.Over)
			took, rto = append(took, o.takeover.Took), append(rto, o.takeover.RTO)
		}
		if n == 0 {
			continue
		}
		slices.Sort(took)
		slices.Sort(rto)
		ms := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
		s += fmt.Sprintf("%-8s %7d %9d %6d %10d %10s %14s %14s %14s\n", mode, n, told, lost, most, ms(over), ms(took[n/2]), ms(rto[n/2]), ms(rto[n-1]))
	}
	return s
}
