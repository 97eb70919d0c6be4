package pglab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate/internal/pgrun"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Loss is what clients were told of against what is there.
type Loss struct {
	Told, Lost int
	Over       time.Duration // from the first commit that is lost to the last, by when clients were told of them
}

// Loss compares the clients' log with the server that the route leads to. The
// clients must have been stopped.
func (l *Lab) Loss(ctx context.Context, c *Clients) (Loss, error) {
	rows, err := l.ThroughRoute(ctx, "SELECT client, n FROM told")
	if err != nil {
		return Loss{}, err
	}
	left := maps.Clone(c.told)
	for row := range strings.SplitSeq(rows, "\n") {
		delete(left, row)
	}
	out := Loss{Told: len(c.told), Lost: len(left)}
	if len(left) > 0 {
		times := slices.SortedFunc(maps.Values(left), time.Time.Compare)
		out.Over = times[len(times)-1].Sub(times[0])
	}
	return out, nil
}

// Fork is the position that the promoted server went on from: where its timeline
// left the primary's, as PostgreSQL itself wrote it down.
func (l *Lab) Fork(ctx context.Context) (wal.LSN, error) {
	text, err := l.Warm(ctx, "SELECT pg_read_file('pg_wal/00000002.history')")
	if err != nil {
		return 0, err
	}
	h, err := wal.ParseHistory(2, []byte(text))
	if err != nil {
		return 0, err
	}
	return h[len(h)-1].At, nil
}

// Twin is the primary's content at a position, recovered by PostgreSQL itself.
type Twin struct {
	Digest string          // of pgbench's tables
	Told   map[string]bool // rows of the clients: "client|n"
}

// Recover makes of the copy from before the load, and of the log in the killed
// primary's directory, what the primary held at a position. Once per lab.
func (l *Lab) Recover(ctx context.Context, at wal.LSN) (Twin, error) {
	segments := filepath.Join(l.Primary.DataDir, "pg_wal")
	if err := l.recoverTo(ctx, segments, at.String()); err != nil {
		text, err2 := os.ReadFile(l.copy.LogPath())
		if err2 != nil || !strings.Contains(string(text), "recovery ended before configured recovery target was reached") {
			return Twin{}, errors.Join(err, err2)
		}
		// The log ends at the very position: there is no record behind it to stop at.
		if err := l.recoverTo(ctx, segments, ""); err != nil {
			return Twin{}, err
		}
	}
	text, err := l.copy.Text(ctx, "SELECT pg_last_wal_replay_lsn()")
	if err != nil || text != at.String() {
		return Twin{}, errors.Join(err, fmt.Errorf("recover the primary's log to %s: PostgreSQL came to %s", at, text))
	}
	t := Twin{Told: map[string]bool{}}
	if t.Digest, err = l.copy.Text(ctx, pgrun.BenchDigest); err != nil {
		return t, err
	}
	rows, err := l.copy.Query(ctx, "SELECT client, n FROM told")
	for _, r := range rows {
		t.Told[strings.Join(r, "|")] = true
	}
	return t, err
}

func (l *Lab) recoverTo(ctx context.Context, segments, at string) error {
	if err := l.copy.RecoverTo(segments, at); err != nil {
		return err
	}
	if err := l.copy.Start(); err != nil {
		return err
	}
	return pgrun.Poll(ctx, func(ctx context.Context) error {
		if !l.copy.Running() {
			return pgrun.Final(fmt.Errorf("%s ended:\n%s", l.copy.Name, l.copy.Tail(10)))
		}
		is, err := l.copy.Text(ctx, "SELECT pg_is_in_recovery()")
		if err == nil && is != "f" {
			err = errors.New("it recovers")
		}
		return err
	})
}

// Equal compares the promoted server with a twin at its fork: pgbench's tables to
// the row, and of the clients' table, which goes on, that nothing is missing.
func (l *Lab) Equal(ctx context.Context, t Twin) error {
	digest, err := l.Warm(ctx, pgrun.BenchDigest)
	if err != nil {
		return err
	}
	if digest != t.Digest {
		return fmt.Errorf("pgbench's tables differ: digest %s on the promoted server, %s in the primary's log", digest, t.Digest)
	}
	rows, err := l.Warm(ctx, "SELECT client, n FROM told")
	if err != nil {
		return err
	}
	for row := range strings.SplitSeq(rows, "\n") {
		delete(t.Told, row)
	}
	if len(t.Told) > 0 {
		return fmt.Errorf("%d rows are in the primary's log and not on the promoted server", len(t.Told))
	}
	return nil
}

// books are true when every transaction of pgbench is there as a whole: each
// changes all four sums by the same amount.
const books = `SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history),
	sum(abalance) = (SELECT sum(bbalance) FROM pgbench_branches), sum(abalance) = (SELECT sum(tbalance) FROM pgbench_tellers),
	(SELECT count(*) > 0 FROM pgbench_history) FROM pgbench_accounts`

// Sound checks what the disasters have left: pgbench's books behind the route,
// pg_amcheck over every table and index of the warm server, promoted or not, and its log.
func (l *Lab) Sound(ctx context.Context) error {
	got, err := l.ThroughRoute(ctx, books)
	if err == nil && got != "t|t|t|t" {
		err = fmt.Errorf("the books of pgbench do not agree: %s", got)
	}
	return errors.Join(err, l.amcheck(), l.complaints())
}

func (l *Lab) amcheck() error {
	_, port := l.listen()
	env := []string{"PGHOST=" + l.warm.SocketDir(), fmt.Sprintf("PGPORT=%d", port), "PGUSER=" + pgrun.Superuser}
	out, err := l.Primary.Install.Try(env, "pg_amcheck", "--heapallindexed", "-d", "postgres")
	if err != nil || strings.TrimSpace(out) != "" {
		return fmt.Errorf("pg_amcheck of the promoted server: %w\n%s", errors.Join(err, errors.New("it found something")), out)
	}
	return nil
}

func (l *Lab) complaints() error {
	text, err := l.WarmLog()
	if err != nil {
		return err
	}
	for _, bad := range []string{"PANIC", "incorrect resource manager data checksum", "contrecord", "unexpected pageaddr"} {
		if strings.Contains(text, bad) {
			return fmt.Errorf("the warm server's log says %q:\n%s", bad, text)
		}
	}
	return nil
}

// Tail is what the killed primary's log holds beyond a position.
func (l *Lab) Tail(from wal.LSN) (wal.Summary, error) {
	const size = wal.SegmentSize(16 << 20) // initdb's own
	z, err := wal.NewSummarizer(wal.Config{SegmentSize: size}, wal.Mark{End: from})
	if err != nil {
		return wal.Summary{}, err
	}
	for at := from; ; at = size.Start(at) + wal.LSN(size) {
		b, err := os.ReadFile(filepath.Join(l.Primary.DataDir, "pg_wal", size.FileName(1, at)))
		if errors.Is(err, os.ErrNotExist) {
			return z.Summary(), nil
		}
		if err != nil {
			return wal.Summary{}, err
		}
		if done, err := z.Push(at, b[size.Offset(at):]); done || err != nil {
			return z.Summary(), err
		}
	}
}
