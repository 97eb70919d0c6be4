package registry

import (
	"maps"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Service is a consistency group of streams: the unit of objective, failover
// and drill.
type Service struct {
	Name      tidegate.ServiceName           `json:"name"`
	RPO       time.Duration                  `json:"rpo"`       // objective, nanoseconds; 0 is none set
	RTO       time.Duration                  `json:"rto"`       // objective, nanoseconds; 0 is none set
	Routes    []string                       `json:"routes"`    // route names that must apply a change before it is done
	Endpoints map[tidegate.SiteName][]string `json:"endpoints"` // by site, until the active service reports its own
	MaxLoss   *tidegate.Bounds               `json:"max_loss"`  // a failover may lose this without being told; nil: window RPO, no other limit
	Frozen    bool                           `json:"frozen"`    // no role change
	Reason    string                         `json:"reason"`    // of the freeze

	Disarmed       bool          `json:"disarmed"`        // the arm switch of the role-change rules is off
	LeaseTTL       time.Duration `json:"lease_ttl"`       // of the output lease that covers its streams, nanoseconds; 0 is none
	SingleRegistry bool          `json:"single_registry"` // an operator wants degrading, leases or an acting detector on a registry that does not outlive a site
	Detector       Detector      `json:"detector"`
	DrillAge       time.Duration `json:"drill_age"` // the newest passed drill may be this old, nanoseconds; 0 is the rule's default
}

// DetectorMode is what a service's failure detector may do.
type DetectorMode string

// The modes.
const (
	DetectorOff     DetectorMode = "off"
	DetectorObserve DetectorMode = "observe" // it says what it would do
	DetectorAuto    DetectorMode = "auto"    // it begins a failover when every rule holds
)

// Detector is a service's failure detector as configured. The zero value is off.
type Detector struct {
	Mode      DetectorMode  `json:"mode"`       // empty is off
	DownAfter time.Duration `json:"down_after"` // without a sign of progress, nanoseconds; 0 is the detector's default
	AntiFlap  time.Duration `json:"anti_flap"`  // nothing by itself so soon after a change, nanoseconds; 0 is the detector's default
	Agree     int           `json:"agree"`      // vantage points that must; 0 is the detector's default
}

// Drills is what is on record of a service's drills.
type Drills struct {
	Last Drill `json:"last"`
	// Passed is the newest that passed and counts for the rule drill-fresh, because it
	// recovered something; nil when none has.
	Passed *Drill `json:"passed"`
	// Levels are the same by [Drill.Kind]; see [Drills.ByLevel].
	Levels map[string]LevelDrills `json:"levels,omitempty"`
	// Chains are the newest of each chain of reports; see [Drills.Heads].
	Chains map[string]Drill `json:"chains,omitempty"`
}

// Heads returns the newest drill of each chain of reports, which the next one must follow,
// by the id of each key that has signed in it: after a change of keys there are two of one
// chain. An entry that was written before there were several chains is of that of Last. d
// may be nil: nothing is on record. The map is the caller's.
func (d *Drills) Heads() map[string]Drill {
	out := map[string]Drill{}
	if d == nil {
		return out
	}
	if d.Last.Number > 0 && len(d.Chains) == 0 {
		out[d.Last.Key] = d.Last
	}
	maps.Copy(out, d.Chains)
	return out
}

// ByLevel returns the newest drills of each level and scenario, by [Drill.Kind]. What an
// entry says that was written before there were levels, or while there was no more than
// one scenario of each on record, is under the kinds that it is of.
func (d *Drills) ByLevel() map[string]LevelDrills {
	out := map[string]LevelDrills{}
	put := func(last Drill, passed *Drill) {
		at, known := out[last.Kind()]
		if known && last.Ended.Before(at.Last.Ended) {
			return
		}
		if passed == nil {
			passed = at.Passed
		}
		out[last.Kind()] = LevelDrills{Last: last, Passed: passed}
	}
	all := d.Levels
	if len(all) == 0 && d.Last.Number > 0 {
		all = map[string]LevelDrills{"": {Last: d.Last, Passed: d.Passed}}
	}
	for _, of := range all {
		if of.Passed != nil && of.Passed.Kind() != of.Last.Kind() {
			put(*of.Passed, of.Passed)
			put(of.Last, nil)
			continue
		}
		put(of.Last, of.Passed)
	}
	return out
}

// LevelDrills is what is on record of a service's drills of one level and scenario.
type LevelDrills struct {
	Last   Drill  `json:"last"`
	Passed *Drill `json:"passed"` // as of [Drills]: nil where nothing was recovered
}

// Drill is one drill, as its signed report says.
type Drill struct {
	ID       string         `json:"id"`
	Number   uint64         `json:"number"` // in the chain of the service's reports, from 1
	Level    string         `json:"level"`
	Scenario string         `json:"scenario"`
	Outcome  string         `json:"outcome"`
	Ended    time.Time      `json:"ended"` // on the clock of whoever ran it
	RTA      *time.Duration `json:"rta"`   // nanoseconds; nil: not measured
	RTO      *time.Duration `json:"rto"`   // objective that it was held against, nanoseconds; nil: none
	Phases   []DrillPhase   `json:"phases,omitempty"`
	Hash     string         `json:"hash"` // of the report, hex
	Key      string         `json:"key"`  // id of the key that signed it
}

// Kind is a drill's level and scenario, such as L3/link-cut.
func (d *Drill) Kind() string { return d.Level + "/" + d.Scenario }

// DrillPhase is what a drill's report says of one phase, or of the total, of which
// Took is nil: it is the drill's RTA.
type DrillPhase struct {
	Name   string         `json:"name"`
	Took   *time.Duration `json:"took"`   // nanoseconds; nil: not measured
	Slower *bool          `json:"slower"` // than its own history; nil: not compared, or on too few drills
}

// Brake says that a stream's primary runs unprotected because somebody wants it so.
type Brake struct {
	Reason string    `json:"reason"`
	Actor  string    `json:"actor"`
	Since  time.Time `json:"since"`
}

// Stream is a stream as the operator wants it. What is in force is in its epoch record.
type Stream struct {
	ID      tidegate.StreamID    `json:"id"`
	Service tidegate.ServiceName `json:"service"`
	Name    tidegate.StreamName  `json:"name"`
	Store   string               `json:"store"` // "journal"
	Mode    tidegate.Mode        `json:"mode"`
	Bounds  tidegate.Bounds      `json:"bounds"` // as the mode stands for
	Policy  tidegate.Policy      `json:"policy"`
	Brake   *Brake               `json:"brake"`   // nil while it is off
	Members []tidegate.NodeName  `json:"members"` // for the next epoch
	W       int                  `json:"w"`
	Paused  bool                 `json:"paused"`
	Reason  string               `json:"reason"` // of the pause
	// Leaving: it is about to be removed, and its stores let go of what they keep.
	Leaving bool `json:"leaving,omitempty"`
	// Renewal is the newest declaration of a new generation; nil when there was none.
	Renewal *Renewal `json:"renewal,omitempty"`
	// Gaps are all that was ever given up, oldest first, each up to another epoch: what
	// each declaration accepted.
	Gaps []tidegate.Gap `json:"gaps,omitempty"`
}

// Renewal says that the source at Site does not continue the log as it stands at the
// end of Epoch: a writer there that begins behind a batch of that epoch, or of an
// older one, opens a new generation. The agent at Node, whose source it was said of,
// acquires an epoch for that; another would depose a writer that is well.
type Renewal struct {
	Epoch        tidegate.Epoch    `json:"epoch"`
	Node         tidegate.NodeName `json:"node"`
	Site         tidegate.SiteName `json:"site"`
	Reason       string            `json:"reason"`
	Actor        string            `json:"actor"`
	Since        time.Time         `json:"since"`
	AcceptedLoss bool              `json:"accepted_loss,omitempty"` // the source lacks what was shipped, or may
}

// Pending reports whether no epoch was opened since it was declared and the stream
// still lives at its site; false for nil.
func (r *Renewal) Pending(rec fence.EpochRecord) bool {
	return r != nil && rec.ActiveEpoch <= r.Epoch && rec.Active.Site == r.Site
}

// Past reports whether the log was given up behind an epoch, and goes on without it: what
// an agent said in that epoch is about the log before.
func (r *Renewal) Past(rec fence.EpochRecord, e tidegate.Epoch) bool {
	return r != nil && rec.ActiveEpoch > r.Epoch && e <= r.Epoch
}

// Kind is what a registered node does.
type Kind string

// The kinds.
const (
	KindAgent   Kind = "agent"
	KindStandby Kind = "standby"
	KindRoute   Kind = "route"
)

// Node is a registered node. A machine that is both agent and standby has two.
type Node struct {
	Name        tidegate.NodeName    `json:"name"`
	Kind        Kind                 `json:"kind"`
	Site        tidegate.SiteName    `json:"site"`
	Holder      tidegate.HolderID    `json:"holder"`      // agent only: of its newest start
	Incarnation tidegate.Incarnation `json:"incarnation"` // standby only: the one that counts for new configurations
	ShipAddress string               `json:"ship_address"`
	APIAddress  string               `json:"api_address"`
}

// Route is where clients of a service are sent.
type Route struct {
	Service   tidegate.ServiceName `json:"service"`
	Epoch     tidegate.Epoch       `json:"epoch"` // highest among the service's streams
	Site      tidegate.SiteName    `json:"site"`
	Endpoints []string             `json:"endpoints"` // in order of preference, host:port
	Since     time.Time            `json:"since"`
}

// Quarantine is one bundle found beyond a recovered end.
type Quarantine struct {
	Role            tidegate.Role     `json:"role"` // of who reported it: an agent's copy of the log, or a standby node's
	ID              string            `json:"id"`
	Node            tidegate.NodeName `json:"node"`
	Stream          tidegate.StreamID `json:"stream"`
	WrittenEpoch    tidegate.Epoch    `json:"written_epoch"` // under which the records were written
	CutEpoch        tidegate.Epoch    `json:"cut_epoch"`     // that cut them
	First           tidegate.Position `json:"first"`
	Next            tidegate.Position `json:"next"` // exclusive
	Records         int64             `json:"records"`
	Bytes           int64             `json:"bytes"`
	ReleasedRecords *int64            `json:"released_records"` // nil: not known
	Oldest          time.Time         `json:"oldest"`           // source times; zero when not known
	ReleasedNewest  time.Time         `json:"released_newest"`  // of the released ones; zero when there are none, or it is not known
	Newest          time.Time         `json:"newest"`
	Reason          string            `json:"reason"`
	Path            string            `json:"path"`
}
