package tidegate

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Mode is how strictly a stream's gate holds outputs back.
type Mode string

// The three modes. They are three settings of one formula: see [Bounds].
const (
	ModeOpen    Mode = "open"
	ModeBounded Mode = "bounded"
	ModeSync    Mode = "sync"
)

// Unbounded is the infinity of [Bounds]: no limit on that quantity.
const Unbounded = math.MaxInt64

// Bounds limits what may be released but not yet durable. Open is all
// Unbounded, sync all zero, bounded anything between.
type Bounds struct {
	Records int64         `json:"records"` // K, in records; Unbounded for none
	Bytes   int64         `json:"bytes"`   // B, in raw payload bytes; Unbounded for none
	Window  time.Duration `json:"window"`  // T, span of release times that could be lost; Unbounded for none
}

// Bounds returns the bounds a mode stands for; b is used by bounded only.
func (m Mode) Bounds(b Bounds) (Bounds, error) {
	switch m {
	case ModeOpen:
		return Bounds{Unbounded, Unbounded, Unbounded}, nil
	case ModeSync:
		return Bounds{}, nil
	case ModeBounded:
		return b, b.Validate()
	}
	return Bounds{}, fmt.Errorf("gate mode %q: want open, bounded or sync", string(m))
}

// Validate reports a negative bound.
func (b Bounds) Validate() error {
	if b.Records < 0 || b.Bytes < 0 || b.Window < 0 {
		return fmt.Errorf("gate bounds %d records, %d bytes, %s: want none negative", b.Records, b.Bytes, b.Window)
	}
	return nil
}

// String lists what is limited, for people: "100 records, 16 MiB, a window of
// 2s", or "no limit".
func (b Bounds) String() string {
	var parts []string
	if b.Records != Unbounded {
		parts = append(parts, strconv.FormatInt(b.Records, 10)+" records")
	}
	if b.Bytes != Unbounded {
		parts = append(parts, sizeText(b.Bytes))
	}
	if b.Window != Unbounded {
		parts = append(parts, "a window of "+b.Window.String())
	}
	if len(parts) == 0 {
		return "no limit"
	}
	return strings.Join(parts, ", ")
}

// sizeText prints bytes with the largest binary unit that keeps them whole.
func sizeText(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; n != 0 && n%1024 == 0 && i < len(units)-1; i++ {
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + " " + units[i]
}

// LooserThan reports whether b permits anything that c forbids: such a change
// is recorded before it acts, the opposite acts before it is recorded.
func (b Bounds) LooserThan(c Bounds) bool {
	return b.Records > c.Records || b.Bytes > c.Bytes || b.Window > c.Window
}

// Reaction is what a gate does once it has been closed for longer than its grace.
type Reaction string

// The reactions. Only the last two let outputs go on unprotected: degrade once
// the registry says so, degrade-blind also when no gate can be asked, which is
// why a stream that permits it can never claim zero loss.
const (
	ReactBlock        Reaction = "block"
	ReactReject       Reaction = "reject"
	ReactDegrade      Reaction = "degrade"
	ReactDegradeBlind Reaction = "degrade-blind"
)

// Policy says how a stream's gate behaves at its edge. The zero value blocks.
type Policy struct {
	Reaction Reaction      `json:"reaction"`
	Grace    time.Duration `json:"grace"` // closed for this long before the reaction sets in
	Rearm    time.Duration `json:"rearm"` // a degraded gate arms itself after D has kept up for this long
}

// Validate reports an unknown reaction or a negative time.
func (p Policy) Validate() error {
	switch p.Reaction {
	case "", ReactBlock, ReactReject, ReactDegrade, ReactDegradeBlind:
	default:
		return fmt.Errorf("gate policy %q: want block, reject, degrade or degrade-blind", string(p.Reaction))
	}
	if p.Grace < 0 || p.Rearm < 0 {
		return fmt.Errorf("gate policy grace %s, rearm %s: want none negative", p.Grace, p.Rearm)
	}
	return nil
}

// Degrades reports whether the policy may ever let outputs go on unprotected.
func (p Policy) Degrades() bool {
	return p.Reaction == ReactDegrade || p.Reaction == ReactDegradeBlind
}

// Quorum is the arithmetic of a stream's standby set.
type Quorum struct {
	N int `json:"n"` // standby nodes; the primary's own disk is not one
	W int `json:"w"` // nodes that must have fsynced a batch before it counts as durable
}

// R is the fence quorum: the fewest nodes that are sure to meet every ack quorum.
func (q Quorum) R() int { return q.N - q.W + 1 }

// Validate checks 1 <= W <= N.
func (q Quorum) Validate() error {
	if q.N < 1 || q.W < 1 || q.W > q.N {
		return fmt.Errorf("quorum n=%d w=%d: want 1 <= w <= n", q.N, q.W)
	}
	return nil
}
