package agent

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/shipper/drop"
)

// lane is a way to the standby nodes.
type lane string

// The lanes.
const (
	laneLive    lane = "live"    // sessions over TCP
	laneArchive lane = "archive" // the same sessions through a bucket, see package drop
)

// How long a lane that was left because it was slow is left alone: whether it has
// become faster shows only when it is used. Doubled each time that it has not.
const (
	slowHoldFirst = time.Minute
	slowHoldMax   = 16 * time.Minute
)

// cascade decides by which lane the sessions of a stream go: live, unless no word comes
// over it, or what is shipped does not arrive in time. It is pure; times are of the
// boot clock, and the zero instant is never.
//
// Invariants:
//  1. a lane is left only by step, and kept until the other one has a reason
//  2. silent counts from an attempt, never from a time in which nobody tried
//  3. what the machine has slept through counts for nothing
//  4. an answer of any kind, a refusal too, is a word: then the lane is not to blame
type cascade struct {
	cfg DropConfig

	lane   lane
	since  tidegate.Instant // of lane
	awake  tidegate.Instant // since when the machine has not slept
	why    string           // the live lane was left; kept on the archive lane
	silent tidegate.Instant // since when sessions are tried over lane and no word has come

	good tidegate.Instant // since when the live lane answers whenever it is asked, while it is not in use
	hold time.Duration    // for how long the archive lane is kept; 0 unless the live one was slow
}

func newCascade(cfg DropConfig) cascade { return cascade{cfg: cfg, lane: laneLive} }

// tried says that a session is being opened over the lane in use.
func (c *cascade) tried(now tidegate.Instant) {
	if c.silent == 0 {
		c.silent = now
	}
}

// word says that something came from a standby node over a lane.
func (c *cascade) word(over lane) {
	if over == c.lane {
		c.silent = 0
	}
}

// idle says that nobody wants a session any more.
func (c *cascade) idle() { c.silent = 0 }

// slept says that there were no steps for a while: nobody could ask or hear anything.
func (c *cascade) slept(now tidegate.Instant) {
	c.awake, c.good = now, 0
	if c.silent > 0 {
		c.silent = now
	}
}

// mute reports whether nothing comes over the archive lane although somebody tries: for
// longer than a handshake through it takes.
func (c *cascade) mute(now tidegate.Instant) bool {
	return c.lane == laneArchive && c.silent > 0 && time.Duration(now-c.silent) >= max(c.cfg.After, drop.HandshakeTimeout)
}

// probed says whether a standby node answered over the live lane while that is not in use.
func (c *cascade) probed(now tidegate.Instant, answered bool) {
	switch {
	case !answered:
		c.good = 0
	case c.good == 0:
		c.good = now
	}
}

// step changes the lane if it is time to, and reports whether it did. waiting is for how
// long the oldest batch that was sent has not arrived; 0 if all have.
func (c *cascade) step(now tidegate.Instant, waiting time.Duration) bool {
	if c.lane == laneArchive {
		return c.back(now)
	}
	waiting = min(waiting, time.Duration(now-c.awake))
	silent := time.Duration(0)
	if c.silent > 0 {
		silent = time.Duration(now - c.silent)
	}
	switch {
	case silent >= c.cfg.After:
		c.hold = 0
		c.take(now, laneArchive, "no standby node has answered over the live crossing for "+c.cfg.After.String())
		return true
	case waiting >= c.cfg.Slow:
		c.hold = min(max(slowHoldFirst, 2*c.hold), slowHoldMax)
		c.take(now, laneArchive, "what was sent over the live crossing has not arrived for "+c.cfg.Slow.String())
		return true
	case c.hold > 0 && time.Duration(now-c.since) > slowHoldMax:
		c.hold = 0 // it has been fast for long enough
	}
	return false
}

// back returns to the live lane once that answers: for a while, or at once where the
// archive carries nothing.
func (c *cascade) back(now tidegate.Instant) bool {
	if c.good == 0 {
		return false
	}
	held := time.Duration(now-c.since) < c.hold || time.Duration(now-c.good) < c.cfg.Back
	if held && !c.mute(now) {
		return false
	}
	c.take(now, laneLive, "")
	return true
}

func (c *cascade) take(now tidegate.Instant, l lane, why string) {
	c.lane, c.since, c.why = l, now, why
	c.silent, c.good = 0, 0
}
