package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// recoveryRow is what a start of the ledger that follows takes: the newest snapshot
// beside its journal, and what the journal holds behind it. Nothing of it is in the page
// cache.
type recoveryRow struct {
	Records uint64        `json:"records"` // behind the snapshot
	State   int64         `json:"state_bytes"`
	Log     int64         `json:"log_bytes"` // behind the snapshot
	Seconds figure.Spread `json:"seconds"`
	Rate    figure.Spread `json:"records_per_second"` // the snapshot's time included
	Disk    figure.Spread `json:"disk_mb_per_second"` // the same bytes, read and nothing else
	Ratio   figure.Spread `json:"ratio"`
}

// recovery ends the crossing and starts from what the ledger at the other site has.
func (b *snapshots) recovery(ctx context.Context, rounds int) (row recoveryRow, err error) {
	end := b.j.End()
	b.lab.Close()
	dir := b.lab.Journal(snapshotNode, b.stream.name)
	at, path, err := newestState(dir)
	if err != nil {
		return row, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return row, err
	}
	row.State, row.Log = info.Size(), int64(end-at)
	var took, rates, disk, ratios []float64
	for range rounds {
		if row.Records, err = b.recover(ctx, dir, at, end, &took); err != nil {
			return row, err
		}
		seconds, err := readCold(dir, path, row.Log)
		if err != nil {
			return row, err
		}
		s := took[len(took)-1]
		rates, disk = append(rates, float64(row.Records)/s), append(disk, float64(row.State+row.Log)/1e6/seconds)
		ratios = append(ratios, seconds/s)
	}
	row.Seconds, row.Rate, row.Disk, row.Ratio = figure.SpreadOf(took), figure.SpreadOf(rates), figure.SpreadOf(disk), figure.SpreadOf(ratios)
	return row, nil
}

// newestState is where the newest snapshot in a journal's directory was taken.
func newestState(dir string) (at tidegate.Position, path string, err error) {
	found, err := filepath.Glob(filepath.Join(dir, "snapshots", "*.state"))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("%s has no snapshot", dir)
	}
	if err != nil {
		return 0, "", err
	}
	path = slices.Max(found) // the names are of one length
	at, err = tidegate.ParsePosition(strings.TrimSuffix(filepath.Base(path), ".state"))
	return at, path, err
}

// recover starts once, and returns how many records it applied.
func (b *snapshots) recover(ctx context.Context, dir string, at, end tidegate.Position, took *[]float64) (records uint64, err error) {
	shelf, err := book.Open(slog.New(slog.DiscardHandler), book.Config{Dir: filepath.Dir(dir), Service: lab.Service, History: lab.Service})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, shelf.Close()) }()
	eur := shelf.Book(ledger.EUR)
	if got := eur.Journal().End(); got < end {
		return 0, fmt.Errorf("the journal at the other site ends at %s, want %s", got, end)
	}
	r, err := eur.Journal().NewReader(at)
	if err != nil {
		return 0, err
	}
	first, ok, err := r.TryNext()
	if err = errors.Join(err, r.Close()); err != nil || !ok {
		return 0, errors.Join(err, fmt.Errorf("no record at %s", at))
	}
	if _, err := figure.Uncache(dir); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := eur.Recover(ctx); err != nil {
		return 0, err
	}
	*took = append(*took, time.Since(began).Seconds())
	if got := eur.Position(); got != eur.Journal().End() {
		return 0, fmt.Errorf("the state recovered to %s, the journal ends at %s", got, eur.Journal().End())
	}
	return eur.Journal().Records() - (first.Number - 1), nil
}

// readCold reads a snapshot and the last so many bytes of the journal, at once, and
// returns how long that took.
func readCold(dir, state string, log int64) (seconds float64, err error) {
	if _, err := figure.Uncache(dir); err != nil {
		return 0, err
	}
	segments, err := filepath.Glob(filepath.Join(dir, "log", "*.seg"))
	if err != nil {
		return 0, err
	}
	slices.Sort(segments)
	began := time.Now()
	var g errgroup.Group
	g.Go(func() error { return readFrom(state, 0) })
	for _, path := range slices.Backward(segments) {
		if log <= 0 {
			break
		}
		info, err := os.Stat(path)
		if err != nil {
			return 0, errors.Join(err, g.Wait())
		}
		from := max(0, info.Size()-log)
		log -= info.Size() - from
		g.Go(func() error { return readFrom(path, from) })
	}
	err = g.Wait()
	return time.Since(began).Seconds(), err
}

func readFrom(path string, from int64) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	return err
}

func (t *recoveryRow) print(out io.Writer) {
	fmt.Fprintf(out, "\nRecovery of that ledger, nothing in the page cache: a snapshot of %.0f MB and %d records, %.0f MB of journal, behind it\n",
		float64(t.State)/1e6, t.Records, float64(t.Log)/1e6)
	fmt.Fprintf(out, "%s s, %s records/s, the snapshot included; %s of the time that reading the same bytes takes, at %s MB/s\n",
		t.Seconds, t.Rate.Whole(), t.Ratio, t.Disk.Whole())
}
