package rpo

import (
	"time"

	"github.com/tidegate/tidegate"
)

// TimeSample is one exchange of time stamps, as NTP makes it. Sent and Returned
// are read from the local clock, Received and Answered from the remote one.
type TimeSample struct {
	Sent     tidegate.Instant // t0, local
	Received tidegate.Instant // t1, remote
	Answered tidegate.Instant // t2, remote
	Returned tidegate.Instant // t3, local
}

// theta returns remote minus local.
func (s TimeSample) theta() time.Duration {
	return time.Duration((s.Received-s.Sent)/2 + (s.Answered-s.Returned)/2)
}

// delay returns the time on the road, both ways.
func (s TimeSample) delay() time.Duration {
	return time.Duration((s.Returned - s.Sent) - (s.Answered - s.Received))
}

// offsetWindow is how long a best sample is kept: short enough to follow a
// drifting clock, long enough to meet a moment without queues.
const offsetWindow = 10 * time.Second

// driftPPM is the drift allowed between two undisciplined clocks.
const driftPPM = 200

// ClockOffset estimates remote minus local time from the sample with the least
// delay of the window before last and the present one. Zero value: no estimate.
type ClockOffset struct {
	window tidegate.Instant // beginning of the present window
	best   [2]TimeSample    // previous window's, present window's
	have   [2]bool
}

// Add takes a sample. One that contradicts itself (it came back before it left,
// or was answered before it was received) is ignored.
func (o *ClockOffset) Add(s TimeSample) {
	if s.Returned < s.Sent || s.Answered < s.Received || s.delay() < 0 {
		return
	}
	o.roll(s.Returned)
	if !o.have[1] || s.delay() <= o.best[1].delay() {
		o.best[1], o.have[1] = s, true
	}
}

func (o *ClockOffset) roll(now tidegate.Instant) {
	age := time.Duration(now - o.window)
	switch {
	case !o.have[0] && !o.have[1], age >= 2*offsetWindow:
		if o.have[1] || o.have[0] {
			// The last word, however old: its error grows with age, see Estimate.
			o.best[0], o.have[0] = o.latest(), true
		}
		o.window, o.have[1] = now, false
	case age >= offsetWindow:
		o.best[0], o.have[0] = o.best[1], o.have[1]
		o.window, o.have[1] = now, false
	}
}

func (o *ClockOffset) latest() TimeSample {
	if o.have[1] {
		return o.best[1]
	}
	return o.best[0]
}

// Estimate returns remote minus local time at the local instant now, and how far
// the truth can be from it: half the delay, plus drift since the sample. known
// is false before the first sample.
func (o *ClockOffset) Estimate(now tidegate.Instant) (theta, err time.Duration, known bool) {
	for i, s := range o.best {
		if !o.have[i] {
			continue
		}
		e := o.errorOf(s, now)
		if !known || e < err {
			theta, err, known = s.theta(), e, true
		}
	}
	return theta, err, known
}

func (o *ClockOffset) errorOf(s TimeSample, now tidegate.Instant) time.Duration {
	age := max(0, time.Duration(now-s.Returned))
	// 2 ns for the halves that integer division dropped.
	return s.delay()/2 + 2 + age/1e6*driftPPM + age%1e6*driftPPM/1e6
}

// BlindWindow bounds from above the span of time about which the DR site knows
// nothing. seen is the primary's clock in the newest beacon; theta is the DR
// site's clock minus the primary's, and err its error, both as Estimate gives
// them on the primary.
func BlindWindow(now, seen tidegate.Instant, theta, err time.Duration) time.Duration {
	return max(0, time.Duration(now-seen)-theta+err)
}

// LossUpper bounds from above what a failover lost, as the DR site can know it.
type LossUpper struct {
	Known   bool          `json:"known"`   // false: unbounded; the fields are lower bounds from the last beacon
	Records int64         `json:"records"` // at most, or at least if not Known
	Bytes   int64         `json:"bytes"`
	Window  time.Duration `json:"window"`
}

// LossBound returns the bound that mode and bounds of the gate's record give.
// sinceRecorded says that the record was in force for everything beyond H:
// recorded in this epoch, and no restored etcd. last is what the newest beacon
// said about exposure; blind is BlindWindow at the moment the old writer could
// release no more.
func LossBound(mode tidegate.Mode, b tidegate.Bounds, sinceRecorded bool, last Exposure, blind time.Duration) LossUpper {
	effective, err := mode.Bounds(b)
	if err != nil || !sinceRecorded || mode == tidegate.ModeOpen {
		u := LossUpper{Window: blind}
		if last.Known {
			u.Records, u.Bytes = last.Records, last.Bytes
		}
		return u
	}
	u := LossUpper{Known: true, Records: effective.Records, Bytes: effective.Bytes, Window: effective.Window}
	u.Window = min(u.Window, blind)
	if mode == tidegate.ModeSync {
		u.Window = 0
	}
	return u
}
