package main

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/tidegate/tidegate/bench/figure"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/internal/lab"
)

// exposureEvery is how often live exposure is asked for.
const exposureEvery = 100 * time.Millisecond

// The quantities that say what a disaster would cost, each of all streams the worst.
const (
	blindWindow = iota // what of the source the standby node may not know of, as it says
	lossWindow         // what was released and is not durable there, as the agent says
	notApplied         // log that the warm service has not applied, as the node says
	quantities
)

var quantityNames = [quantities]string{"blind window, ms (node)", "loss window, ms (agent)", "log not applied, KiB (node)"}

// stretch is what was said of live exposure in one turn. What was not known is not in
// said, and is counted.
type stretch struct {
	said    [quantities][]float64
	unknown [quantities]int
}

func (s *stretch) add(more stretch) {
	for q := range quantities {
		s.said[q] = append(s.said[q], more.said[q]...)
		s.unknown[q] += more.unknown[q]
	}
}

func (s *stretch) p(q, thousandths int) float64 {
	return figure.Quantile(slices.Sorted(slices.Values(s.said[q])), thousandths)
}

// witness asks those who say what is exposed.
type witness struct {
	node   *shadow.Node
	agent  string // URL
	client http.Client
}

// watch looks until ctx ends. One look after the other: one that takes long delays the next.
func (w *witness) watch(ctx context.Context) (s stretch) {
	tick := time.NewTicker(exposureEvery)
	defer tick.Stop()
	for {
		w.look(ctx, &s)
		select {
		case <-ctx.Done():
			return s
		case <-tick.C:
		}
	}
}

// look takes one look, unless ctx ends in the middle of it.
func (w *witness) look(ctx context.Context, s *stretch) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var now [quantities][]float64 // by stream
	known := [quantities]bool{true, true, true}
	note := func(q int, value *float64) {
		if value == nil {
			known[q] = false
			return
		}
		now[q] = append(now[q], *value)
	}
	if look, err := w.node.Look(ctx); err == nil {
		for _, one := range look {
			note(blindWindow, milliseconds(one.Blind))
			note(notApplied, kibibytes(one.Bytes))
		}
	}
	if all, err := lab.ScrapeExposure(ctx, &w.client, w.agent); err == nil {
		for _, e := range all {
			var value *float64
			if e.Known {
				value = new(1000 * e.Window)
			}
			note(lossWindow, value)
		}
	}
	if ctx.Err() != nil {
		return
	}
	for q := range quantities {
		if !known[q] || len(now[q]) == 0 {
			s.unknown[q]++
			continue
		}
		s.said[q] = append(s.said[q], slices.Max(now[q]))
	}
}

func milliseconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	return new(float64(*d) / float64(time.Millisecond))
}

func kibibytes(n *int64) *float64 {
	if n == nil {
		return nil
	}
	return new(float64(*n) / (1 << 10))
}
