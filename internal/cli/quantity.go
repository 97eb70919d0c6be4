package cli

import (
	"fmt"
	"strconv"
	"time"
)

// Unknown is how a number that is not known is printed; it is never 0.
const Unknown = "unknown"

// Count prints a count, or [Unknown] for nil.
func Count[N ~int64 | ~uint64 | ~uint32](n *N) string {
	if n == nil {
		return Unknown
	}
	return fmt.Sprintf("%d", *n)
}

// Size prints a number of bytes with a binary unit.
func Size(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v, unit := float64(n), ""
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		v, unit = v/(1<<10), u
		if v < 1<<10 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// MaybeSize is [Size], or [Unknown] for nil.
func MaybeSize(n *int64) string {
	if n == nil {
		return Unknown
	}
	return Size(*n)
}

// Span prints a duration with as many digits as an operator can use.
func Span(d time.Duration) string {
	switch abs := d.Abs(); {
	case abs < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case abs < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case abs < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
