package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/bench/figure"
)

// What is in flight: enough that a group is being synced at either end while
// the next one gathers.
const (
	flightBytes = 4 << 20
	flightParts = 16 // awaited one by one
)

// pumpRow is B2 for one size and number of standby nodes.
type pumpRow struct {
	N       int           `json:"n"`
	W       int           `json:"w"`
	Size    int           `json:"size_bytes"`
	Records figure.Spread `json:"records_per_second"`
	MB      figure.Spread `json:"mb_per_second"`
	Group   int           `json:"group_bytes"` // what the journal wrote and synced at once, on average
	Limit   figure.Spread `json:"limit_mb_per_second"`
	Ratio   figure.Spread `json:"ratio"`
	Reached figure.Spread `json:"of_target"` // a round's rate over its own target
	Agent   int64         `json:"agent_rss_bytes_max"`
	Standby int64         `json:"standby_rss_bytes_max"`
}

func (s *stack) measurePump(ctx context.Context, l *limit, p plan, size int) (row pumpRow, err error) {
	row = pumpRow{N: s.n, W: s.w, Size: size}
	watch := s.watchMemory(ctx)
	var records, mb, limits, ratios, reached []float64
	var bytes, groups int
	for range p.rounds {
		before := s.j.Status().Groups
		n, took, err := s.pump(ctx, p, size)
		if err != nil {
			return row, fmt.Errorf("throughput: %w", err)
		}
		these := int(s.j.Status().Groups - before)
		bytes, groups = bytes+n*size, groups+these
		rate := float64(n*size) / took.Seconds() / 1e6
		raw, err := l.write(s.noise, n*size, max(size, n*size/max(1, these)))
		if err != nil {
			return row, fmt.Errorf("limit of the throughput: %w", err)
		}
		records = append(records, float64(n)/took.Seconds())
		mb, limits, ratios = append(mb, rate), append(limits, raw), append(ratios, rate/raw)
		reached = append(reached, rate/min(pumpRatioMin*raw, pumpMBMin))
	}
	row.Records, row.MB, row.Limit = figure.SpreadOf(records), figure.SpreadOf(mb), figure.SpreadOf(limits)
	row.Ratio, row.Reached = figure.SpreadOf(ratios), figure.SpreadOf(reached)
	row.Group = bytes / max(1, groups)
	row.Agent, row.Standby, err = watch()
	return row, err
}

// pump appends without waiting, flightBytes ahead of D, and returns once D
// covers all of it.
func (s *stack) pump(ctx context.Context, p plan, size int) (records int, took time.Duration, err error) {
	const part = flightBytes / flightParts
	var ends [flightParts]tidegate.Position
	began := time.Now()
	inPart, parts := 0, 0
	var end tidegate.Position
	for records*size < p.pumpBytes {
		r, err := s.j.Submit(ctx, s.record(records, size), began)
		if err != nil {
			return 0, 0, err
		}
		end = r.Next
		records++
		if inPart += size; inPart < part {
			continue
		}
		inPart = 0
		if time.Since(began) > p.pumpTime {
			break
		}
		slot := &ends[parts%flightParts]
		parts++
		if *slot != 0 {
			if err := s.await(ctx, *slot); err != nil {
				return 0, 0, err
			}
		}
		*slot = end
	}
	err = s.await(ctx, end)
	return records, time.Since(began), err
}

// write appends total bytes to one file, group by group, each synced, and
// returns MB/s.
func (l *limit) write(from []byte, total, group int) (float64, error) {
	group = min(group, len(from))
	began := time.Now()
	for done := 0; done < total; done += group {
		if err := l.log.append(from[:min(group, total-done)]); err != nil {
			return 0, err
		}
	}
	return float64(total) / time.Since(began).Seconds() / 1e6, nil
}

const memoryEvery = 10 * time.Millisecond

// watchMemory samples the resident memory of the primary site's agent and of
// every standby node until the returned function is called, which gives the
// maxima.
func (s *stack) watchMemory(ctx context.Context) (stop func() (agent, standby int64, err error)) {
	var agent, standby int64
	look := func() error {
		b, err := s.lab.Proc("agent-" + primary).RSS()
		if err != nil {
			return err
		}
		agent = max(agent, b)
		for _, name := range s.lab.Standbys() {
			if b, err = s.lab.Proc("standby-" + name).RSS(); err != nil {
				return err
			}
			standby = max(standby, b)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error {
		tick := time.NewTicker(memoryEvery)
		defer tick.Stop()
		for {
			if err := look(); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
	return func() (int64, int64, error) {
		cancel()
		err := g.Wait()
		return agent, standby, err
	}
}
