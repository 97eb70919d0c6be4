package model

import (
	"fmt"
	"strings"
)

// Limits of what a state can hold.
const (
	NodesMax = 4 // standby nodes
	SlotsMax = 4 // epochs that are ever reserved, the first one included
	LogMax   = 4 // batches in a log
)

// Config is one bounded world to search. Every budget counts over the whole
// life of the world; zero switches that fault or action off.
type Config struct {
	Name    string
	N, W    int // standby nodes, and how many of them make a batch durable
	Slots   int // epochs that may be reserved, the first one included
	Batches int // batches that each holder seals of its own
	Log     int // longest log

	Crashes  int // of nodes: what is not synced is lost
	Wipes    int // of nodes: the disk is lost
	Losses   int // replies to a fence that get lost
	Restarts int // of agents: the ring is lost, the journal stays
	Degrades int // of the gate
	Switches int // planned switchovers that begin
	Restores int // of the registry from the backup taken at the beginning

	Shrink   bool // F6 may open the epoch with fewer members
	Twins    bool // two controllers run every plan
	Unsynced bool // receiving and fsyncing a batch are two steps
	LateAcks bool // an ack travels for any length of time
	Halfway  bool // an adopt may be overtaken after it cut and copied some

	Broken []Rule      // rules that do not hold
	Look   []Invariant // invariants to check; none means all
	States int         // stop after so many states; 0 is no limit
}

// Validate checks the limits.
func (c Config) Validate() error {
	switch {
	case c.N < 1 || c.N > NodesMax || c.W < 1 || c.W > c.N:
		return fmt.Errorf("model %s: %d nodes, quorum %d: want 1 <= W <= N <= %d", c.Name, c.N, c.W, NodesMax)
	case c.Slots < 1 || c.Slots > SlotsMax || c.Log < 1 || c.Log > LogMax || c.Batches < 1 || c.Batches > 2:
		return fmt.Errorf("model %s: want 1..%d slots, 1..%d log, 1..2 batches", c.Name, SlotsMax, LogMax)
	}
	return nil
}

// String lists what makes the configuration, for tables.
func (c Config) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "N=%d W=%d epochs=%d batches=%d log=%d", c.N, c.W, c.Slots, c.Batches, c.Log)
	for _, f := range []struct {
		name string
		n    int
	}{
		{"crash", c.Crashes},
		{"wipe", c.Wipes},
		{"lost", c.Losses},
		{"restart", c.Restarts},
		{"degrade", c.Degrades},
		{"switch", c.Switches},
		{"restore", c.Restores},
	} {
		if f.n > 0 {
			fmt.Fprintf(&b, " %s=%d", f.name, f.n)
		}
	}
	for _, f := range []struct {
		name string
		on   bool
	}{
		{"shrink", c.Shrink},
		{"twins", c.Twins},
		{"unsynced", c.Unsynced},
		{"late-acks", c.LateAcks},
		{"halfway", c.Halfway},
	} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	return b.String()
}

// Rule is a rule of the protocol that the model can do without. Where the code
// has a switch for the same rule the name is the same.
type Rule uint8

// The rules. What stands behind each is where the code keeps it.
const (
	PromiseOnDisk    Rule = iota // Node.persistPromise: a promise is on disk before it is replied
	AckAfterSync                 // Node.Ack: only what is fsynced is acknowledged
	EpochFirst                   // FenceReply.better: logs compare by (adopted epoch, length)
	AdoptedEpoch                 // Node.replyFence: a log's epoch is the adopted one, not the promised one
	AdoptQuorum                  // Controller.adopted: W adopters before ACTIVE
	EpochCheck                   // Node.CheckAppend: an append must match the promise
	ChainCheck                   // Node.CheckAppend, delta log: only an adopted log, and only after an equal prefix
	Limbo                        // NewNode, StreamPlan.counts: a node that lost its disk does not vote
	ReadEpoch                    // Node.askAdopt: a node that lost its disk reads the record before it obeys
	CaughtUp                     // Writer.onLimboAck: limbo ends only with everything sealed when first heard of
	FenceQuorum                  // StreamPlan.need: R = N-W+1 replies
	ChoiceRecorded               // Controller.choose: the head is in the record before anybody adopts it
	ActivateCompare              // Controller.activate: ACTIVE by compare-and-swap
	NoAckAfterFence              // Node.Ack: nothing is acknowledged under an epoch once a higher is promised
	FreshHolder                  // agent: a start is a change of writer
	RegateAfterStart             // rpo, journal: after a start (D, L] is shipped before it is released
	DegradeRecorded              // EpochRecord.SetGate: a degradation is recorded before it acts
	RearmEnforced                // gate: enforced first, recorded then
	RearmCovered                 // gate: what a start found in the journal is durable before ARMED is recorded
	GateInReserve                // Controller.reserve: the gate is read in the transaction that reserves
	HandoverDurable              // EpochRecord.HandOver: everything is durable before the writer hands over
	HandedOver                   // agent: after DEMOTED nothing is sealed
	HandoverCompare              // EpochRecord.HandOver: DEMOTED by compare-and-swap
	HeardEpoch                   // Controller.reserve: an epoch is above every promise heard of
	PromiseHolder                // Promise.Allows: the holder is part of a promise
	Named                        // Writer.OnAck: an ack counts only for the incarnation that the record names
	RestoreNoticed               // gate: a registry that was put back is noticed, its records say UNKNOWN
	RearmProven                  // gate: from UNKNOWN nothing leads on but ARMED, and that takes acks of W members that still stand by the epoch
	ruleCount
)

var ruleNames = [ruleCount]string{
	PromiseOnDisk:    "promise-on-disk",
	AckAfterSync:     "ack-after-sync",
	EpochFirst:       "epoch-first",
	AdoptedEpoch:     "adopted-epoch",
	AdoptQuorum:      "adopt-quorum",
	EpochCheck:       "epoch-check",
	ChainCheck:       "chain-check",
	Limbo:            "limbo",
	ReadEpoch:        "read-epoch",
	CaughtUp:         "caught-up",
	FenceQuorum:      "fence-quorum",
	ChoiceRecorded:   "choice-recorded",
	ActivateCompare:  "activate-compare",
	NoAckAfterFence:  "no-ack-after",
	FreshHolder:      "fresh-holder",
	RegateAfterStart: "regate-after-start",
	DegradeRecorded:  "degrade-recorded",
	RearmEnforced:    "rearm-enforced",
	RearmCovered:     "rearm-covered",
	GateInReserve:    "gate-in-reserve",
	HandoverDurable:  "handover-durable",
	HandedOver:       "handed-over",
	HandoverCompare:  "handover-compare",
	HeardEpoch:       "heard-epoch",
	PromiseHolder:    "promise-holder",
	Named:            "named",
	RestoreNoticed:   "restore-noticed",
	RearmProven:      "rearm-proven",
}

func (r Rule) String() string { return ruleNames[r] }

// Rules lists every rule.
func Rules() []Rule {
	out := make([]Rule, 0, ruleCount)
	for r := range ruleCount {
		out = append(out, r)
	}
	return out
}

// Invariant names an invariant of the protocol.
type Invariant string

// The invariants that are checked in every state, or in every step.
const (
	I1  Invariant = "I1"  // no epoch falls, in the registry or in a promise that was given; none is opened for two holders
	I2  Invariant = "I2"  // every batch of an epoch was sealed by its one holder
	I5  Invariant = "I5"  // a member that promised never completes W acks of an older epoch once R have promised
	I6  Invariant = "I6"  // what was released as durable is in every later epoch that opens
	I7  Invariant = "I7"  // no two contents are released at one seq
	I8  Invariant = "I8"  // equal batch on two nodes, equal log before it
	I13 Invariant = "I13" // a failover that reads ARMED loses nothing that was released, degraded or not
	I14 Invariant = "I14" // an epoch opens only when W of its members hold its head
	I17 Invariant = "I17" // after a handover the next head is the one handed over, and nothing of it is cut
)
