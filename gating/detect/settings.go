package detect

import (
	"errors"
	"fmt"
	"time"
)

// Mode is what a detector may do.
type Mode string

// The modes.
const (
	Off     Mode = "off"     // it judges nothing
	Observe Mode = "observe" // it says what it would have done
	Auto    Mode = "auto"    // it begins a failover when every rule holds
)

// Vantage points that must agree at least: below the first there is no down,
// below the second nothing happens by itself.
const (
	AgreeMin     = 2
	AgreeMinAuto = 3
	// SitesMinAuto is how many sites must have a vantage point before anything
	// may happen by itself: one of them is the primary's, and may be lost with it.
	SitesMinAuto = 3
)

// Settings are a service's detector as the operator wants it. A zero field takes
// the default; the zero value is off.
type Settings struct {
	Mode      Mode          `json:"mode"`
	DownAfter time.Duration `json:"down_after"` // Td: no vantage point calls a shorter silence down; default 10s
	AntiFlap  time.Duration `json:"anti_flap"`  // nothing by itself so soon after a change of role, an attempt, or a recovery; default 1m
	Agree     int           `json:"agree"`      // vantage points that must call it down; default 2, with auto 3
}

// SetDefaults fills what was left out.
func (s Settings) SetDefaults() Settings {
	if s.Mode == "" {
		s.Mode = Off
	}
	if s.DownAfter == 0 {
		s.DownAfter = 10 * time.Second // longer than the pauses of a busy machine, shorter than people's patience
	}
	if s.AntiFlap == 0 {
		s.AntiFlap = time.Minute // a change of role and the clients' return are over
	}
	if s.Agree == 0 {
		s.Agree = AgreeMin
		if s.Mode == Auto {
			s.Agree = AgreeMinAuto
		}
	}
	return s
}

// DownAfterMin is the least Td: a few reports, which come each second, must fit.
const DownAfterMin = 5 * time.Second

// Validate reports every broken rule.
func (s Settings) Validate() error {
	var errs []error
	least := AgreeMin
	switch s.Mode {
	case Off, Observe:
	case Auto:
		least = AgreeMinAuto
	default:
		errs = append(errs, fmt.Errorf("detector mode %q: want off, observe or auto", string(s.Mode)))
	}
	if s.DownAfter < DownAfterMin {
		errs = append(errs, fmt.Errorf("detector down_after %s: want at least %s", s.DownAfter, DownAfterMin))
	}
	if s.AntiFlap < s.DownAfter {
		errs = append(errs, fmt.Errorf("detector anti_flap %s: want at least down_after (%s)", s.AntiFlap, s.DownAfter))
	}
	if s.Agree < least {
		errs = append(errs, fmt.Errorf("detector agree %d: want at least %d in mode %s", s.Agree, least, s.Mode))
	}
	return errors.Join(errs...)
}

// Timing of the detector itself, given by how often it is stepped and how often
// observers speak: once a second.
const (
	// fresh is how long an observer's last word counts: a registry that elects a
	// leader, as it does when a site is lost, must not make everybody abstain.
	fresh = 4 * time.Second
	// PauseMax is the longest gap between two steps of a detector, or between two
	// observations of an observer, that is not a pause.
	PauseMax = 2500 * time.Millisecond
	// forgotten is how long an observer's silence is held against a decision: a
	// node that is taken out of service must not block it for ever.
	forgotten = 15 * time.Minute
	// windowLen is how many intervals between contacts a vantage remembers.
	windowLen = 128
	// windowMin is the fewest that say what is usual.
	windowMin = 8
	// unusual is how many times the longest usual interval makes a silence suspect.
	unusual = 3
	// suspectMin is the shortest silence that is suspect, however regular the
	// contacts: observers speak once a second.
	suspectMin = 2 * time.Second
)
