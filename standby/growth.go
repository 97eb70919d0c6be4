package standby

import (
	"time"

	"github.com/tidegate/tidegate"
)

const (
	// growthOver is the span that growth is measured over: long enough to see
	// through a burst, short enough to show that the load has changed.
	growthOver = 10 * time.Minute
	// growthMin is the least span that says anything.
	growthMin = time.Minute
	// growthSamples are kept, growthOver/growthSamples apart.
	growthSamples = 20
)

// growth measures how fast the node's logs grow. The zero value has measured
// nothing; not for concurrent use.
//
// Invariant: samples ascend in time and span at most growthOver, plus one step.
type growth struct {
	samples []growthSample
}

type growthSample struct {
	at    tidegate.Instant
	bytes int64
}

// add takes the size of all logs now.
func (g *growth) add(now tidegate.Instant, bytes int64) {
	if n := len(g.samples); n > 0 && bytes < g.samples[n-1].bytes {
		g.samples = nil // a log was cut or trimmed: what was before says nothing of what comes
	}
	if n := len(g.samples); n > 1 && time.Duration(now-g.samples[n-2].at) < growthOver/growthSamples {
		g.samples[n-1] = growthSample{now, bytes}
	} else {
		g.samples = append(g.samples, growthSample{now, bytes})
	}
	for len(g.samples) > 2 && time.Duration(now-g.samples[1].at) >= growthOver {
		g.samples = g.samples[1:]
	}
}

// rate returns bytes per second; not known until measured over growthMin.
func (g *growth) rate() (perSecond float64, known bool) {
	if len(g.samples) < 2 {
		return 0, false
	}
	first, last := g.samples[0], g.samples[len(g.samples)-1]
	span := time.Duration(last.at - first.at)
	if span < growthMin {
		return 0, false
	}
	return float64(last.bytes-first.bytes) / span.Seconds(), true
}
