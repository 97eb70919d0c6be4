package live

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Scenario names what a drill plays.
type Scenario string

// The scenarios. The first is of level L2, the others of L3; primary-site-lost is of L4, too.
const (
	Planned         Scenario = "switchover-and-back"
	PrimarySiteLost Scenario = "primary-site-lost"
	AgentLost       Scenario = "agent-lost"
	LinkCut         Scenario = "link-cut"
	LinkOneWay      Scenario = "link-one-way"
	LinkSlow        Scenario = "link-slow"
	StandbyNodeLost Scenario = "standby-node-lost"
	WipedDisk       Scenario = "wiped-disk"
	CorruptSegment  Scenario = "corrupt-segment"
	DiskFull        Scenario = "disk-full"
	ControllerLost  Scenario = "controller-lost"
	RegistryLost    Scenario = "registry-lost"
	Thermal         Scenario = "thermal" // nodes of the primary site slow down one by one, and die
)

// Clients is what the service's clients may notice of a fault.
type Clients int

const (
	// Served clients get answers all the time: none waits for longer than the drill's
	// pause.
	Served Clients = iota
	// Held clients may wait or be refused for as long as the fault lasts: the mode of the
	// gate says whether.
	Held
)

func (c Clients) String() string {
	if c == Held {
		return "clients may wait or be refused while the fault lasts"
	}
	return "clients are served all the time"
}

// Expectation is what must be seen when a fault is injected.
type Expectation struct {
	FailsOver bool // else it rides out
	Clients   Clients
	// Says is what the gates must say meanwhile and have not said before: one line of a
	// [Sight] that it matches. nil: nothing need be said, as long as the objective holds.
	Says *regexp.Regexp
	What string // the same for people
	// Twice: it counts when two looks running say it of the same one: a single answer may
	// be late for other reasons.
	Twice bool
}

// What gates say, as it stands in status and doctor: changed there, it is changed here,
// and the drills of internal/lab tell.
const (
	saysProbe  = `^probe fails`
	saysWriter = `the writer \S+ has (been silent|not reported)|its writer \S+ has (been silent|not reported)`
	saysLink   = `the gate is closed|the gate is degraded|exposed for|a disaster now loses|exposure is not known`
	saysNode   = `^finding: standby \S+: silent`
	saysSilent = saysNode + `|members answer`
)

func says(any ...string) *regexp.Regexp { return regexp.MustCompile(strings.Join(any, "|")) }

var (
	siteLost = Expectation{FailsOver: true, Clients: Held, Says: says(saysProbe, saysWriter), What: "that clients are not served, or that the writer is silent"}
	linkLost = Expectation{Clients: Held, Says: says(saysLink, saysSilent), What: "that the gate is closed or degraded, or what a disaster would lose"}
)

var expectations = map[Scenario]Expectation{
	PrimarySiteLost: siteLost,
	Thermal:         siteLost,
	AgentLost:       {Clients: Held, Says: says(saysWriter), What: "that the writer is silent"},
	LinkCut:         linkLost,
	LinkOneWay:      linkLost,
	LinkSlow:        {Clients: Served},
	StandbyNodeLost: {Clients: Served, Says: says(saysSilent), What: "which standby node is silent, or how many members answer"},
	WipedDisk:       {Clients: Served, Says: says(saysNode, `^finding: standby \S+: runs on another data directory`), What: "that the node is silent, or has another data directory"},
	CorruptSegment:  {Clients: Served, Says: says(`member \S+: .*(open stream|mismatch|corrupt|damaged)`, `in quarantine`), What: "which member's log is damaged, or lies in quarantine"},
	DiskFull:        {Clients: Served, Says: says(`member \S+: .*full`, `^finding: standby \S+: (its disk is full|\d+% of its disk is free)`), What: "whose disk is full"},
	ControllerLost:  {Clients: Served, Says: says(`^gate \S+: no answer`), What: "nothing: the lost one gives no answer", Twice: true},
	RegistryLost:    {Clients: Served, Says: says(`^registry: does not answer`, `^finding: registry: `), What: "that the registry does not answer"},
}

// Expected is what must be seen in a scenario that injects a fault; false: there is no
// such one.
func Expected(s Scenario) (Expectation, bool) {
	e, ok := expectations[s]
	return e, ok
}

// Scenarios lists those that inject a fault, by their names.
func Scenarios() []Scenario { return slices.Sorted(maps.Keys(expectations)) }

func (e Expectation) String() string {
	if e.FailsOver {
		return "fails over"
	}
	return "rides out"
}
