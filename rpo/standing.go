package rpo

import (
	"time"

	"github.com/tidegate/tidegate"
)

// Standing is how a ceiling stands in the bounds it was given, whether they are
// enforced at the moment or not.
type Standing struct {
	Known bool // A and D are
	// Utilisation is the largest used share of a bound; of a bound that is 0 none
	// is ever used. It is 1 while A or D is unknown: nothing beyond D is granted.
	Utilisation float64
	Late        bool          // T is above 0 and reached: something is exposed for that long
	HeldBack    bool          // the ceiling lies below the head
	Covered     bool          // what is released beyond D lies within the bounds: nothing at all, in sync
	Leaseless   bool          // a lease is needed, and over
	Age         time.Duration // of the earliest release beyond D; 0 if there is none
	D           tidegate.Position
	Drained     int64 // records up to D, as far as marks tell: never more than there are
	Busy        bool  // something is on the primary that is not durable at the DR site
}

// Standing returns how the ceiling stands at now.
func (c *Ceiling) Standing(now tidegate.Instant) Standing {
	floor := c.marks.at(0)
	s := Standing{
		Known:     c.known,
		HeldBack:  c.Limit(now) < c.head.Position,
		Covered:   c.known,
		Leaseless: c.leaseOver(now),
		D:         c.d,
		Drained:   floor.Records,
		Busy:      c.head.Position > c.d,
	}
	if c.releases.len() > 0 {
		s.Age = max(0, time.Duration(now-c.releases.at(0).at))
		s.Late = c.bounds.Window > 0 && !c.within(now, c.bounds.Window)
	}
	if !c.known {
		s.Utilisation = 1
		return s
	}
	if c.a > c.d {
		top := c.atOrAbove(c.a)
		records, bytes := top.Records-floor.Records, top.Bytes-floor.Bytes
		s.Utilisation = max(share(records, c.bounds.Records), share(bytes, c.bounds.Bytes))
		s.Covered = records <= c.bounds.Records && bytes <= c.bounds.Bytes && c.within(now, c.bounds.Window)
	}
	s.Utilisation = max(s.Utilisation, share(int64(s.Age), int64(c.bounds.Window)))
	return s
}

// Utilisation returns [Standing.Utilisation].
func (c *Ceiling) Utilisation(now tidegate.Instant) float64 { return c.Standing(now).Utilisation }

// share returns how much of bound is used.
func share(used, bound int64) float64 {
	if bound <= 0 || bound == tidegate.Unbounded {
		return 0
	}
	return float64(used) / float64(bound)
}
