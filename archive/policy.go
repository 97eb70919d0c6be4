package archive

import (
	"errors"
	"fmt"
	"time"
)

// Policy says how a stream is archived. The zero value means the defaults.
type Policy struct {
	// Segment is how long segments become where there is enough to fill them, in
	// bytes. Default 16 MiB.
	Segment int64
	// Every is for how long a committed batch waits for others, at most. Default 10 s.
	Every time.Duration
	// Quiet is the same where there are only heartbeats. Default 1 min.
	Quiet time.Duration
	// Look is how often the one that uploads says so, and the others look what there
	// is. Default 20 s.
	Look time.Duration
	// Lease is for how long the others wait for one that does not say so. Default 1 min.
	Lease time.Duration
	// Late is the age of the oldest committed batch that is not archived at which the
	// archive counts as being behind. Default 5 min.
	Late time.Duration
	// Keep says what stays; the zero value: everything.
	Keep Retention
	// KeepEvery is how often what does not stay is looked for. Default 1 h.
	KeepEvery time.Duration
	// RemoveEvery is how much time passes before each object that is removed. Default 20 ms.
	RemoveEvery time.Duration
}

// Defaults of a [Policy].
const (
	SegmentDefault = 16 << 20
	EveryDefault   = 10 * time.Second
	QuietDefault   = time.Minute
	LookDefault    = 20 * time.Second
	LeaseDefault   = time.Minute
	LateDefault    = 5 * time.Minute

	KeepEveryDefault   = time.Hour
	RemoveEveryDefault = 20 * time.Millisecond
)

// Limits of a [Policy]: a segment is read into memory whole.
const (
	SegmentMin = 64 << 10
	SegmentMax = 256 << 20
)

// SetDefaults fills the fields that are zero.
func (p Policy) SetDefaults() Policy {
	if p.Segment == 0 {
		p.Segment = SegmentDefault
	}
	for _, f := range []struct {
		of       *time.Duration
		default_ time.Duration
	}{{&p.Every, EveryDefault}, {&p.Look, LookDefault}, {&p.Lease, LeaseDefault}, {&p.KeepEvery, KeepEveryDefault}, {&p.RemoveEvery, RemoveEveryDefault}} {
		if *f.of == 0 {
			*f.of = f.default_
		}
	}
	if p.Quiet == 0 {
		p.Quiet = max(QuietDefault, p.Every)
	}
	if p.Late == 0 {
		p.Late = max(LateDefault, 3*p.Quiet)
	}
	return p
}

// Validate reports every broken rule.
func (p Policy) Validate() error {
	var errs []error
	if p.Segment < SegmentMin || p.Segment > SegmentMax {
		errs = append(errs, fmt.Errorf("segment: want %d to %d (got %d)", SegmentMin, SegmentMax, p.Segment))
	}
	if p.Every <= 0 || p.Quiet < p.Every {
		errs = append(errs, fmt.Errorf("every: want more than 0 and at most %s (got %s)", p.Quiet, p.Every))
	}
	if p.Look <= 0 || p.Lease < 2*p.Look {
		errs = append(errs, fmt.Errorf("look: want more than 0 and at most half of %s (got %s)", p.Lease, p.Look))
	}
	if p.Late <= 0 {
		errs = append(errs, fmt.Errorf("late: want more than 0 (got %s)", p.Late))
	}
	if p.KeepEvery <= 0 || p.RemoveEvery <= 0 {
		errs = append(errs, fmt.Errorf("keep: want looks and removals more than 0 apart (got %s and %s)", p.KeepEvery, p.RemoveEvery))
	}
	if err := p.Keep.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("keep: %w", err))
	}
	return errors.Join(errs...)
}
