package judge

import (
	"fmt"
	"math/bits"
	"time"
)

// Run is one drill of level L1 to L4, measured: the one to judge, or one before it.
type Run struct {
	ID      string    // of its report; of a run that the history has too, only the one to judge counts
	Stratum Stratum   // runs of other strata are not compared
	Started time.Time // wall clock; how many started in a week decides how sure a finding must be. The order of runs is the caller's

	Lint        bool     // a plan was looked at and nothing recovered: no time and no loss is missing
	Refused     []string // why it did not start, one sentence each
	Interrupted []string // why it was called off before its end

	Phases   []Phase        // in the order in which they ran, each name once
	RTA      *time.Duration // recovery time actual; nil: it did not come to the first client write
	RPA      *time.Duration // span of acknowledgement times that were lost; 0: none; nil: not measured
	Checks   []Finding
	Recovery Recovery
	Harm     Finding // of the live protection by the drill; passed: it was looked at, and there was none
	Outcome  Outcome // of a run of the history: the verdict that it got. [Judge] sets none and reads none of its own run
}

// Stratum is what two runs must have in common to be comparable. Its texts are
// compared as they are.
type Stratum struct {
	Service  string       `json:"service"`
	Level    string       `json:"level"`
	Scenario string       `json:"scenario"`
	Mode     string       `json:"mode"`
	Backlog  BacklogClass `json:"backlog"`
}

func (s Stratum) String() string {
	return fmt.Sprintf("%s %s %s, mode %s, backlog %s", s.Service, s.Level, s.Scenario, s.Mode, s.Backlog)
}

// BacklogClass is how much there was to replay, to within a factor of two.
type BacklogClass string

// Below these a backlog does not show in the time that a replay takes.
const (
	smallRecords = 1 << 10
	smallBytes   = 1 << 20
)

// ClassOf is the class of a backlog of so many records and bytes at t0. Bytes decide
// where they are known, because records differ more in size than bytes do in work.
func ClassOf(records, bytes *int64) BacklogClass {
	class := func(n int64, small int, unit string) BacklogClass {
		if n < int64(small) {
			return BacklogClass(fmt.Sprintf("under %d %s", small, unit))
		}
		low := uint64(1) << (bits.Len64(uint64(n)) - 1)
		return BacklogClass(fmt.Sprintf("%d %s and up to twice that", low, unit))
	}
	switch {
	case bytes != nil && *bytes >= 0:
		return class(*bytes/(1<<20), smallBytes>>20, "MiB")
	case records != nil && *records >= 0:
		return class(*records, smallRecords, "records")
	}
	return "unknown"
}

// Phase is one span of a recovery.
type Phase struct {
	Name string
	// Took is nil where it was not measured; a negative one is taken for that.
	Took *time.Duration
	// Noise is how far Took may be off, such as the interval of the poll that saw its
	// end; less than NoiseMin counts as that.
	Noise time.Duration
	// Absent says that drills of this level have no such phase: it is not missed.
	Absent bool
}

// Found is the answer to one question. Every text but those of Pass and Fail is unknown.
type Found string

// The answers.
const (
	Pass    Found = "passed"
	Fail    Found = "failed"
	Unknown Found = "unknown"
)

// Finding is one question and its answer. What was cut short is unknown, not failed.
type Finding struct {
	Name    string
	Outcome Found
	Why     string // of one that did not pass; "" if there is no more to say
}

func (f Finding) unknown() bool { return f.Outcome != Pass && f.Outcome != Fail }

// Recovery is the recovery type that the service requires, the one that its making lets
// expect, and the one that was seen. Where neither is known, nothing is judged by it.
type Recovery struct {
	Required  string // "": none is
	Predicted string // "": none is
	Observed  string // "": none was made out
	Met       Found  // whether the last is at least both others, by drills/recovery
	Why       string // of one that is not, or is not known; "" if there is no more to say
}

func (r Recovery) asked() bool { return r.Required != "" || r.Predicted != "" }

// against says what was to be seen.
func (r Recovery) against() string {
	if r.Required == "" {
		return r.Predicted + " is predicted"
	}
	return r.Required + " is required"
}

// Objectives are the most that the service allows; 0 is none set, as in the registry,
// and nothing is judged by it.
type Objectives struct {
	RTO, RPO time.Duration
}

// known is d, or nil where d is no measurement.
func known(d *time.Duration) *time.Duration {
	if d == nil || *d < 0 {
		return nil
	}
	return d
}

// ran reports whether anything of a recovery was measured.
func (r *Run) ran() bool {
	for i := range r.Phases {
		if known(r.Phases[i].Took) != nil {
			return true
		}
	}
	return known(r.RTA) != nil || known(r.RPA) != nil
}
