package main

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate/tidegate/bench/figure"
)

// tripRow is B1 for one size and number of standby nodes.
type tripRow struct {
	N       int           `json:"n"`
	W       int           `json:"w"`
	Size    int           `json:"size_bytes"`
	Product figure.Tail   `json:"product"` // of all rounds together
	Limit   figure.Tail   `json:"limit"`
	TLS     figure.Tail   `json:"tls"`   // the limit's round trip without the syncs
	Fsync   figure.Tail   `json:"fsync"` // one append and fdatasync
	Ratio   figure.Spread `json:"ratio"` // of a round's medians
}

// measureTrips lets one record at a time cross, product and limit in turns of a
// few tens: a disturbance of the machine then meets both.
func (s *stack) measureTrips(ctx context.Context, l *limit, p plan, size int) (tripRow, error) {
	row := tripRow{N: s.n, W: s.w, Size: size}
	var ratios []float64
	var product, limit, crossing, sync []time.Duration
	for range p.rounds {
		fromProduct, fromLimit := len(product), len(limit)
		for done := 0; done < p.trips; done += p.turn {
			for i := range p.turn {
				b := s.record(done+i, size)
				if err := timed(&product, func() error { return s.trip(ctx, b) }); err != nil {
					return row, fmt.Errorf("round trip: %w", err)
				}
			}
			for i := range p.turn {
				b := s.record(done+i, size)
				if err := timed(&limit, func() error { return l.trip(b) }); err != nil {
					return row, fmt.Errorf("limit of the round trip: %w", err)
				}
			}
			for i := range max(1, p.turn/5) {
				b := s.record(done+i, size)
				if err := timed(&crossing, func() error { return l.cross(b, false) }); err != nil {
					return row, fmt.Errorf("limit of the crossing: %w", err)
				}
				if err := timed(&sync, func() error { return l.log.append(b) }); err != nil {
					return row, fmt.Errorf("limit of the sync: %w", err)
				}
			}
		}
		a, b := figure.TailOf(append([]time.Duration(nil), product[fromProduct:]...)), figure.TailOf(append([]time.Duration(nil), limit[fromLimit:]...))
		ratios = append(ratios, a.P50/b.P50)
	}
	row.Product, row.Limit, row.TLS, row.Fsync = figure.TailOf(product), figure.TailOf(limit), figure.TailOf(crossing), figure.TailOf(sync)
	row.Ratio = figure.SpreadOf(ratios)
	return row, nil
}

func timed(into *[]time.Duration, op func() error) error {
	began := time.Now()
	err := op()
	*into = append(*into, time.Since(began))
	return err
}
