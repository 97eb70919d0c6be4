package rpo

import (
	"time"

	"github.com/tidegate/tidegate"
)

// Exposure is what would be lost if the primary site vanished now.
type Exposure struct {
	// Known is false while A or D is unknown. The other fields are then upper
	// bounds where one exists; Unbounded where none does. Never show them as 0.
	Known bool `json:"known"`

	Records int64         `json:"records"` // released, not durable
	Bytes   int64         `json:"bytes"`
	Age     time.Duration `json:"age"`    // now minus the earliest release beyond D; grows while the link is down
	Window  time.Duration `json:"window"` // span of release times that would be lost; bounded by T

	InDoubtRecords int64 `json:"inDoubtRecords"` // on the primary, not released: nobody was told
	InDoubtBytes   int64 `json:"inDoubtBytes"`
}

// Exposure returns what is released but not durable. While A is unknown it
// counts from D, or the beginning of the stream if D is unknown too, to the head
// at the start, and has no bound in time.
func (c *Ceiling) Exposure(now tidegate.Instant) Exposure {
	floor := c.marks.at(0)
	released := max(c.a, c.d)
	if !c.known {
		released = max(released, c.start)
	}
	top := c.atOrAbove(released)
	e := Exposure{
		Known:          c.known,
		InDoubtRecords: max(0, c.head.Records-top.Records),
		InDoubtBytes:   max(0, c.head.Bytes-top.Bytes),
	}
	if released > c.d {
		e.Records = top.Records - floor.Records
		e.Bytes = top.Bytes - floor.Bytes
	}
	switch {
	case !c.known:
		e.Age, e.Window = tidegate.Unbounded, tidegate.Unbounded
	case c.releases.len() > 0:
		t0 := c.releases.at(0).at
		e.Age = max(0, time.Duration(now-t0))
		e.Window = max(0, time.Duration(c.moved-t0))
	}
	return e
}
