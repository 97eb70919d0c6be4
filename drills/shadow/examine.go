package shadow

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
)

// examine implements [twin]: PostgreSQL's own look at each of its tables and indexes, and
// what it says of the checksums of the pages that have been read.
func (c *cluster) examine(ctx context.Context, ask *probe.Asker) []evidence.Check {
	var all []evidence.Check
	if *c.d.cfg.Postgres.Amcheck > 0 {
		all = append(all, c.amcheck(ctx, ask))
	}
	return append(all, c.checksums(ctx)...)
}

const amcheckHint = "install PostgreSQL's contrib and client packages, or leave it out: postgres.amcheck 0s"

func (c *cluster) amcheck(ctx context.Context, ask *probe.Asker) evidence.Check {
	const name, kind = "pg_amcheck", "amcheck"
	tool := filepath.Join(c.bin, name)
	if _, err := os.Stat(tool); err != nil {
		return evidence.Check{Name: name, Kind: kind, Wanted: "no table and no index is damaged", Outcome: evidence.CheckUnknown, Why: err.Error() + ": " + amcheckHint}
	}
	one := probe.Ask{Timeout: *c.d.cfg.Postgres.Amcheck, Command: &probe.Command{Run: []string{
		tool, "--all", "--install-missing", "--no-password", "--host", c.server.SocketDir(), "--port", strconv.Itoa(pgPort), "--username", c.d.cfg.Postgres.User,
	}}}
	out := ask.Check(ctx, name, kind, &one)
	if out.Got != nil && strings.HasPrefix(*out.Got, "exit 1:") { // 2 says that something is damaged
		out.Outcome, out.Why = evidence.CheckUnknown, "it could not look: "+amcheckHint
	}
	return out
}

// checksums is what the server has found in pages; nil where it looks for nothing.
func (c *cluster) checksums(ctx context.Context) []evidence.Check {
	out := evidence.Check{Name: "data checksums", Kind: "checksum", Wanted: "no page that was read has another one", Outcome: evidence.CheckUnknown}
	rows, err := query(ctx, c.server, "select current_setting('data_checksums'), coalesce(sum(checksum_failures), 0) from pg_stat_database")
	switch {
	case err != nil:
		out.Why = evidence.Sentence(err)
	case rows[0][0] != "on":
		return nil
	case rows[0][1] == "0":
		out.Outcome, out.Got = evidence.CheckPassed, new("0 failures")
	default:
		out.Outcome, out.Got, out.Why = evidence.CheckFailed, new(rows[0][1]+" failures"), "see pg_stat_database; the base, or this machine's disk, is damaged"
	}
	return []evidence.Check{out}
}

// isolation implements [twin].
func (c *cluster) isolation() []evidence.Check { return c.apart }

// backlog implements [twin].
func (c *cluster) backlog() (records, size *int64) {
	if !c.counted {
		return nil, nil
	}
	return new(int64(c.records)), new(int64(c.bytes)) //nolint:gosec // of one log
}

// progress implements [twin].
func (c *cluster) progress() string {
	p := c.meter.Progress()
	if p.Total == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of %d MiB of base and log restored", p.Done>>20, p.Total>>20)
}

// streams implements [twin].
func (c *cluster) streams() []evidence.Stream {
	info := c.infos[0]
	s := evidence.Stream{ID: info.Stream, Name: info.Name, Store: info.Store}
	if c.plan != nil {
		s.Generation, s.CutSeq = &c.end.Generation, &c.end.Seq
	}
	if c.cut != nil {
		s.Cut, s.Lineage = new(c.cut.Position()), new(c.store.Lineage())
	}
	return []evidence.Stream{s}
}

// content implements [twin]. A cluster says no digest of itself. What can be said: the log
// was parsed to the cut, record by record, with each one's checksum; the server replayed
// it to there and no further, and ended with the log's last transaction.
func (c *cluster) content(bool) []evidence.Check {
	out := evidence.Check{Name: "cut " + string(c.infos[0].Name), Kind: "cut", Wanted: "all of the log to its end, its last transaction, and a history of its own from there on", Outcome: evidence.CheckUnknown}
	if c.cut == nil || c.replayed == nil {
		out.Why = "the clone has not come to the cut"
		return []evidence.Check{out}
	}
	logged, seen := c.logged, c.replayed.LastCommit
	out.Wanted = fmt.Sprintf("replayed to %s, the last transaction %s, and a history of its own from there on", *c.cut, ended(logged))
	got := fmt.Sprintf("replayed to %s, the last transaction %s", c.replayed.Replayed, ended(seen))
	if c.promoted != nil {
		got += fmt.Sprintf(", timeline %s from %s on", c.promoted.Timeline, c.promoted.Fork)
	}
	out.Got = &got
	switch {
	case seen.IsZero() && !logged.IsZero():
		out.Why = "the server does not say which transaction was its last"
	case !seen.Equal(logged):
		out.Outcome, out.Why = evidence.CheckFailed, "the last transaction is another one"
	case c.replayed.Replayed < *c.cut:
		out.Outcome, out.Why = evidence.CheckFailed, "it ends before the cut"
	case c.promoted == nil:
		out.Why = "the clone was not promoted"
	case c.promoted.Fork < *c.cut:
		out.Outcome, out.Why = evidence.CheckFailed, "its own history begins before the cut"
	default:
		out.Outcome = evidence.CheckPassed
	}
	return []evidence.Check{out}
}

// ended is when a transaction did, by its server's clock.
func ended(at time.Time) string {
	if at.IsZero() {
		return "none"
	}
	return "of " + at.Format(time.RFC3339Nano)
}
