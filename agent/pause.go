package agent

import (
	"context"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
)

// The pause detector is a goroutine that expects to run every pauseEvery. What
// it misses, everything in this process misses: the machine was suspended, the
// process was stopped, or the processors had no time for it.
const (
	pauseEvery = 100 * time.Millisecond
	// pauseFrom is the lag that counts as a pause: as long as what the shortest
	// lease leaves for a renewal to be repeated.
	pauseFrom = time.Second
)

// Pauses is what the pause detector has seen since the start.
type Pauses struct {
	Count   uint64        `json:"count"`
	Total   time.Duration `json:"total_ns"`
	Longest time.Duration `json:"longest_ns"`
	Last    time.Time     `json:"last,omitzero"` // wall time at which the last one ended
}

type pauses struct {
	mu   sync.Mutex
	seen Pauses
}

func (p *pauses) get() Pauses {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen
}

func (p *pauses) note(lag time.Duration, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen.Count++
	p.seen.Total += lag
	p.seen.Longest = max(p.seen.Longest, lag)
	p.seen.Last = at
}

// watchPauses looks at the boot clock, which goes on while the machine sleeps,
// until ctx ends.
func (a *Agent) watchPauses(ctx context.Context) error {
	ticker := time.NewTicker(pauseEvery)
	defer ticker.Stop()
	last := a.clk.Boot()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := a.clk.Boot()
		if lag := lagBetween(last, now); lag >= pauseFrom {
			a.pauses.note(lag, a.clk.Wall())
			a.log.Warn("did not run", "took", lag.String())
		}
		last = now
	}
}

// lagBetween is how much later than expected the second of two looks came.
func lagBetween(last, now tidegate.Instant) time.Duration {
	return max(0, time.Duration(now-last)-pauseEvery)
}
