package evidence

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/tidegate/tidegate"
)

// Format and Version are what every report begins with. A reader ignores fields that
// it does not know, and refuses a version that it does not know.
const (
	Format  = "tidegate drill report"
	Version = 1
)

// ReportBytesMax bounds an encoded report.
const ReportBytesMax = 4 << 20

// Report is what one drill did, measured and found. What is not known is nil, which
// is null in JSON, and never 0; of the lists nil is "not looked at" where their comment
// says so, and none otherwise. Times that something took are by the drill's monotonic
// clock, in nanoseconds; moments are wall clock, UTC. docs/formats/evidence.md.
//
// The caller owns what it points to. Format, Version, Number and Previous are set by
// whoever appends the report to a chain.
type Report struct {
	Format   string    `json:"format"`
	Version  int       `json:"version"`
	ID       uuid.UUID `json:"id"`       // of version 7; see [NewID]
	Number   Number    `json:"number"`   // in the chain of the service, from 1
	Previous *Hash     `json:"previous"` // of the report before it; nil for number 1 alone

	Cluster  string               `json:"cluster"` // "" where only an archive was read, which does not say
	Service  tidegate.ServiceName `json:"service"`
	Level    Level                `json:"level"`
	Scenario string               `json:"scenario"` // such as shadow-promote; lower case, without blanks
	Verdict  Verdict              `json:"verdict"`

	Started Moment     `json:"started"`
	Ended   *time.Time `json:"ended"`
	Ran     Ran        `json:"ran"`
	Config  *Hash      `json:"config_digest"` // of the drill's configuration file, as read

	Gate    Gate     `json:"gate"`
	Backlog Backlog  `json:"backlog"`
	Streams []Stream `json:"streams"`

	Phases    []Phase    `json:"phases"` // in the order in which they ran
	Recovered Recovered  `json:"recovery_time"`
	Lost      Lost       `json:"loss"`
	Lag       Lag        `json:"lag"`
	Checks    []Check    `json:"checks"`
	Recovery  Recovery   `json:"recovery_type"`
	Isolation []Check    `json:"isolation"`  // nil: not looked at
	LeftOvers []LeftOver `json:"left_overs"` // nil: not looked for
	Compared  []Compared `json:"compared"`   // phases against history; nil: not compared
	Proven    *Proven    `json:"proven"`     // nil: not computed
}

// Number counts the reports of a service; the first is 1.
type Number uint64

// Level is a rung of the ladder of drills.
type Level string

// The levels.
const (
	L0 Level = "L0" // plan lint
	L1 Level = "L1" // shadow promote
	L2 Level = "L2" // switchover and failback
	L3 Level = "L3" // failover by an injected fault
	L4 Level = "L4" // whole site, with routes
)

// Outcome is what came of a drill.
type Outcome string

// The outcomes.
const (
	Passed      Outcome = "passed"
	Partial     Outcome = "partial" // nothing failed, and something that must be known is unknown
	Failed      Outcome = "failed"
	Interrupted Outcome = "interrupted" // called off before its end, by a person or an assertion
	Refused     Outcome = "refused"     // it did not start
)

// Verdict is the outcome, and why.
type Verdict struct {
	Outcome Outcome  `json:"outcome"`
	Reasons []string `json:"reasons"` // one sentence each, the gravest first; none only when passed
}

// Moment is a time of a wall clock, and how wrong that clock may be.
type Moment struct {
	At    time.Time      `json:"at"`
	Error *time.Duration `json:"error_ns"`
}

// Ran is who ran the drill, and where.
type Ran struct {
	Identity string `json:"identity"` // tidegate://<cluster>/<site>/drill/<name>; "" where it had no certificate
	Host     string `json:"host"`
	Version  string `json:"version"` // of the binary
}

// Gate is how strictly the service was protected when the drill began.
type Gate struct {
	Mode   *tidegate.Mode   `json:"mode"`
	Bounds *tidegate.Bounds `json:"bounds"`
}

// Backlog is what was left to replay at t0.
type Backlog struct {
	Chosen      *int64 `json:"chosen_records"`         // both nil: the drill took the real one
	ChosenBytes *int64 `json:"chosen_bytes,omitempty"` // of the source's log
	Records     *int64 `json:"records"`
	Bytes       *int64 `json:"bytes"`
}

// Stream is one stream as the drill recovered it.
type Stream struct {
	ID         tidegate.StreamID    `json:"stream_id"`
	Name       tidegate.StreamName  `json:"stream"`
	Store      string               `json:"store"`
	Generation *tidegate.Generation `json:"generation"`
	Lineage    *tidegate.Lineage    `json:"lineage"`
	CutSeq     *tidegate.Seq        `json:"cut_seq"`      // last batch of the clone
	Cut        *tidegate.Position   `json:"cut_position"` // exclusive
	Expected   *tidegate.Digest     `json:"digest_expected"`
	Observed   *tidegate.Digest     `json:"digest_observed"`
}

// Phase is one span of the recovery.
type Phase struct {
	Name   string         `json:"name"`
	Took   *time.Duration `json:"took_ns"`  // nil: not measured
	Noise  *time.Duration `json:"noise_ns"` // how far Took may be off
	Absent bool           `json:"absent"`   // drills of this level have no such phase, and Took is nil
}

// Recovered is the recovery time against its objective.
type Recovered struct {
	Objective *time.Duration `json:"rto_ns"`
	Actual    *time.Duration `json:"rta_ns"` // t0 to the first accepted client write
	Predicted *time.Duration `json:"predicted_ns"`
}

// Lost is what the recovery lost against the objective.
type Lost struct {
	Objective *time.Duration `json:"rpo_ns"`
	Actual    *time.Duration `json:"rpa_ns"` // span of acknowledgement times that were lost; 0: none
	Records   *int64         `json:"records"`
	Bytes     *int64         `json:"bytes"`
}

// Lag is how far the live standby was behind, around the drill: the worst of the
// service's streams.
type Lag struct {
	Before LagSeen `json:"before"`
	During LagSeen `json:"during"`
	After  LagSeen `json:"after"`
}

// LagSeen is what some looks at the lag gave.
type LagSeen struct {
	Samples int            `json:"samples"`
	Median  *time.Duration `json:"p50_ns"`
	P99     *time.Duration `json:"p99_ns"`
	Max     *time.Duration `json:"max_ns"`
	Records *int64         `json:"records_max"`
	Bytes   *int64         `json:"bytes_max"`
}

// Check is one question that the drill asked, and the answer.
type Check struct {
	Name    string         `json:"name"`
	Kind    string         `json:"kind"` // digest, canary, http, command, sql, refusal, ...
	Wanted  string         `json:"wanted"`
	Got     *string        `json:"got"` // nil: no answer
	Outcome CheckOutcome   `json:"outcome"`
	Took    *time.Duration `json:"took_ns"`
	Why     string         `json:"why"` // of an outcome other than passed; "" otherwise
}

// CheckOutcome is what came of a check.
type CheckOutcome string

// The outcomes of a check.
const (
	CheckPassed  CheckOutcome = "passed"
	CheckFailed  CheckOutcome = "failed"
	CheckUnknown CheckOutcome = "unknown" // it could not be asked, or there is nothing to compare with
)

// Recovery is the recovery type: the one that is required, the one that was to be
// expected, and the one that the outputs show, in the words of drills/recovery.
type Recovery struct {
	Required  *string         `json:"required"`
	Predicted *string         `json:"predicted"`
	Observed  *string         `json:"observed"`
	Outcome   *string         `json:"outcome"` // of comparing the three: holds, lucky, failed, unknown
	Vector    json.RawMessage `json:"vector"`  // the whole result of the classifier; nil: not classified

	// What the prediction is made of, and why the outcome is what it is; left out where
	// they are not known, as in reports of versions before them.
	Approach *string  `json:"approach,omitempty"`
	Class    *string  `json:"class,omitempty"`
	Reasons  []string `json:"reasons,omitempty"`
}

// LeftOver is what a drill, this one or one before it, left behind.
type LeftOver struct {
	What    string `json:"what"`
	Where   string `json:"where"`
	Removed bool   `json:"removed"`
}

// Compared is one phase, or the total, against its own history in the same stratum, in
// the words of drills/judge.
type Compared struct {
	Phase          string         `json:"phase"`
	Baseline       int            `json:"baseline_runs"`
	Newest         int            `json:"newest_runs"` // this one among them
	BaselineMedian *time.Duration `json:"baseline_median_ns"`
	NewestMedian   *time.Duration `json:"newest_median_ns"`
	Shift          *time.Duration `json:"shift_ns"` // of the newest against the baseline; below 0: quicker
	Ratio          *float64       `json:"ratio"`
	P              *float64       `json:"p"`       // of the rank test
	Limit          *float64       `json:"p_limit"` // that it was held against
	Finding        string         `json:"finding"` // steady, slower, doubled, too few, unknown, absent
}

// Sentence is an error as reasons of a verdict and of a check hold it: on one line.
func Sentence(err error) string { return OneLine(err.Error()) }

// OneLine is text with its blanks and ends of lines as single blanks.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// Proven is what the passes of a stratum prove of its recovery time.
type Proven struct {
	Passes     int      `json:"passes"`
	Misses     int      `json:"misses"`
	Percentile *float64 `json:"percentile"` // 0 to 1, that keeps the objective; nil: none yet
	Confidence float64  `json:"confidence"` // 0 to 1
}
