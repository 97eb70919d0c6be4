package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/journal"
)

// replayRow is B3: the example's ledger on one core.
type replayRow struct {
	Records   int           `json:"records"`
	Bytes     int           `json:"bytes"`
	Warm      figure.Spread `json:"warm_records_per_second"` // from memory, as a follower applies batches
	Cold      figure.Spread `json:"cold_records_per_second"` // from files that are not in the page cache, as a start does
	Memory    figure.Spread `json:"memory_mb_per_second"`    // the same bytes added up
	WarmRatio figure.Spread `json:"warm_ratio"`
	ColdRatio figure.Spread `json:"cold_ratio"`
}

const (
	replayAccounts = 1000
	replayClients  = 100
)

func measureReplay(ctx context.Context, dir string, p plan) (*replayRow, error) {
	raw, err := writeBook(ctx, dir, p.replayCount)
	if err != nil {
		return nil, fmt.Errorf("write the journal to replay: %w", err)
	}
	// One core: the garbage collector and the reading ahead included.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	row := &replayRow{Records: p.replayCount, Bytes: len(raw)}
	var warm, cold, memory, warmRatio, coldRatio []float64
	for range p.rounds {
		seconds := func(f func() error) (float64, error) {
			began := time.Now()
			err := f()
			return time.Since(began).Seconds(), err
		}
		w, err := seconds(func() error { return replayWarm(raw) })
		if err != nil {
			return nil, err
		}
		var total uint64
		m, _ := seconds(func() error { total = sum(raw); return nil }) // adding cannot fail
		runtime.KeepAlive(total)
		c, err := replayCold(dir, p.replayCount)
		if err != nil {
			return nil, err
		}
		n := float64(p.replayCount)
		warm, cold, memory = append(warm, n/w), append(cold, n/c), append(memory, float64(len(raw))/m/1e6)
		warmRatio, coldRatio = append(warmRatio, m/w), append(coldRatio, m/c)
	}
	row.Warm, row.Cold, row.Memory = figure.SpreadOf(warm), figure.SpreadOf(cold), figure.SpreadOf(memory)
	row.WarmRatio, row.ColdRatio = figure.SpreadOf(warmRatio), figure.SpreadOf(coldRatio)
	return row, nil
}

// sum adds all bytes up, eight at a time.
func sum(b []byte) (total uint64) {
	for ; len(b) >= 8; b = b[8:] {
		total += binary.LittleEndian.Uint64(b)
	}
	for _, x := range b {
		total += uint64(x)
	}
	return total
}

func openShelf(dir string) (*book.Shelf, error) {
	return book.Open(slog.New(slog.DiscardHandler), book.Config{Dir: dir, Service: "ledger", History: "bench"})
}

// writeBook journals n commands and returns the journal's bytes.
func writeBook(ctx context.Context, dir string, n int) (raw []byte, err error) {
	shelf, err := openShelf(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, shelf.Close()) }()
	j := shelf.Book(ledger.EUR).Journal()
	var rec []byte
	for i := range n {
		c := command(i)
		if rec, err = c.Append(rec[:0]); err != nil {
			return nil, err
		}
		if _, err := j.Submit(ctx, rec, time.Unix(0, c.TimeUnix)); err != nil {
			return nil, err
		}
	}
	if err := j.Sync(ctx); err != nil {
		return nil, err
	}
	r, err := journal.OpenReader(j.Dir(), 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	raw = make([]byte, 0, j.End())
	for r.At() < j.End() {
		part, _, err := r.Read(j.End(), 1<<20)
		if err != nil {
			return nil, err
		}
		raw = append(raw, part...)
	}
	return raw, nil
}

// command is the i-th of a history of transfers that are carried out.
func command(i int) ledger.Command {
	return commandOf(i, replayAccounts, func(i int) ledger.AccountID { return ledger.AccountID(fmt.Sprintf("a%d", i)) })
}

// commandOf is the same with accounts of any number and name.
func commandOf(i, accounts int, account func(int) ledger.AccountID) ledger.Command {
	name := func(i int) ledger.AccountID { return account(i % accounts) }
	c := ledger.Command{
		Currency: ledger.EUR, TimeUnix: int64(i), Client: tidegate.ID{1, byte(i % replayClients)}, Request: ledger.Request(1 + i/replayClients),
		To: name(i),
	}
	switch i / accounts {
	case 0:
		c.Kind = ledger.KindOpen
	case 1:
		c.Kind, c.Amount = ledger.KindDeposit, 1_000_000
	default:
		c.Kind, c.Amount, c.From = ledger.KindTransfer, 1, name(i*7+1)
	}
	if c.From == c.To {
		c.From = name(i + 1)
	}
	return c
}

func replayWarm(raw []byte) error {
	state := ledger.New(ledger.EUR)
	return journal.Scan(raw, 0, func(r journal.Record) error {
		_, err := state.Apply(r.First, r.Next, r.Payload)
		return err
	})
}

// replayCold rebuilds the state from files and returns the seconds it took.
func replayCold(dir string, n int) (seconds float64, err error) {
	shelf, err := openShelf(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, shelf.Close()) }()
	b := shelf.Book(ledger.EUR)
	if _, err := figure.Uncache(filepath.Join(b.Journal().Dir(), "log")); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := b.Replay(); err != nil {
		return 0, err
	}
	seconds = time.Since(began).Seconds()
	b.View(func(s *ledger.State) {
		if s.Records() != uint64(n) {
			err = fmt.Errorf("replay gave %d records, want %d", s.Records(), n)
		}
	})
	return seconds, err
}
