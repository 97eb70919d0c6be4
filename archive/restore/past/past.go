package past

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// Part is what of a recovery is timed by itself.
type Part string

// The parts of a recovery.
const (
	Files  Part = "files"  // a base's files, fetched and written
	Log    Part = "log"    // likewise
	Rest   Part = "rest"   // what else a restore takes; it has no bytes
	Replay Part = "replay" // log that a service has replayed, or a server that was started
)

// Timing is what a part took.
type Timing struct {
	Bytes int64         `json:"bytes"`
	Took  time.Duration `json:"took_ns"`
}

// Recovery is what a recovery was of and what its parts took. Parts that it did not have
// are absent.
type Recovery struct {
	Ended   time.Time         `json:"ended"`
	Archive string            `json:"archive"` // as people name it
	Store   string            `json:"store"`
	Stream  tidegate.StreamID `json:"stream"`
	Parts   map[Part]Timing   `json:"parts"`
}

// Recoveries are those of a machine, the oldest first.
type Recoveries []Recovery

const (
	// looked is how many recoveries that are comparable are looked at, the newest: what
	// a machine did long ago says little.
	looked = 20
	// nearest is how many of them count, those whose sizes come nearest: what is constant
	// in a part counts for more the smaller it is.
	nearest = 5
	// reach is how many times larger than the largest of them a part may be.
	reach = 16
)

// like reports whether a part of a recovery says something of one of another: a replay is
// the service's affair, everything else the archive's and the store's.
func (r *Recovery) like(o *Recovery, part Part) bool {
	if part == Replay {
		return r.Stream == o.Stream
	}
	return r.Archive == o.Archive && r.Store == o.Store
}

// Predict says how long the parts of a recovery will take, whose bytes want has; the bytes
// of [Rest] mean nothing. by is how many recoveries the part that is known least rests on;
// 0 where there is nothing to be done.
// known is false where nothing comparable was measured.
func (all Recoveries) Predict(want *Recovery) (took time.Duration, by int, known bool) {
	for part, t := range want.Parts {
		if part != Rest && t.Bytes == 0 {
			continue // it takes no time
		}
		one, n := all.part(want, part, t.Bytes)
		if n == 0 {
			return 0, 0, false
		}
		if took += one; by == 0 || n < by {
			by = n
		}
	}
	return took, by, len(want.Parts) > 0
}

// part predicts one part, by n measurements; 0: it is not known.
func (all Recoveries) part(want *Recovery, part Part, size int64) (took time.Duration, n int) {
	var fit []Timing
	for _, r := range slices.Backward(all) {
		t, has := r.Parts[part]
		if has && t.Took > 0 && (part == Rest || t.Bytes > 0) && want.like(&r, part) {
			fit = append(fit, t)
		}
		if len(fit) == looked {
			break
		}
	}
	if len(fit) == 0 {
		return 0, 0
	}
	away := func(t Timing) float64 { return math.Abs(math.Log(float64(t.Bytes) / float64(max(size, 1)))) }
	if part != Rest {
		slices.SortStableFunc(fit, func(a, b Timing) int { return cmp.Compare(away(a), away(b)) })
	}
	fit = fit[:min(len(fit), nearest)]
	// The median: one that a busy machine held up is no measure.
	times, largest := make([]float64, 0, nearest), int64(0)
	for _, t := range fit {
		one := float64(t.Took)
		if part != Rest {
			one *= float64(size) / float64(t.Bytes)
		}
		times, largest = append(times, one), max(largest, t.Bytes)
	}
	if part != Rest && size/reach > largest {
		return 0, 0
	}
	slices.Sort(times)
	return time.Duration(times[len(times)/2]), len(fit)
}
