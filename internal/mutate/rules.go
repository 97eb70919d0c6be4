package mutate

// Rule is one rule of the protocol, PROTOCOL 4.10 and 4.11.
type Rule uint8

// Rules of fencing, choice and adoption.
const (
	PromiseOnDisk    Rule = iota // a promise is on disk before it is replied
	AckAfterSync                 // only what is fsynced is acknowledged
	EpochFirst                   // the best log is compared by (adopted epoch, length)
	AdoptedEpoch                 // a log's epoch is the adopted one, not the promised one
	AdoptQuorum                  // W adopters before ACTIVE
	EpochCheck                   // an append must match promise and adopted term
	ChainCheck                   // equal logs are proved by their chains, not by their lengths
	Limbo                        // a node that lost its disk does not vote
	ReadEpoch                    // a node that lost its disk reads the epoch record before it obeys anybody
	CaughtUp                     // a node leaves limbo only with all that was sealed when it was first heard of
	FenceQuorum                  // R = N-W+1 replies
	ChoiceRecorded               // the chosen head is in the record before anybody adopts it
	ActivateCompare              // ACTIVE is written by compare-and-swap
	NoAckAfterFence              // after a promise nothing is acknowledged under an older epoch
	PromiseHolder                // a promise names the holder: one epoch number is never obeyed for two
	HeardEpoch                   // F1 goes above every promise that was heard of, not only above the record
	TruncateCommon               // a log is cut where it parts from the chosen one, never at what was known committed
	ApplyCommitted               // a warm copy holds nothing that is not known committed
	ConfigOverlap                // a configuration is opened only with W of its own members at the head
	RouteAfterFence              // the route follows the ACTIVE record, never precedes it
	QuarantineFirst              // what is cut is in quarantine first
	HandoverLossless             // a switchover goes on only if the chosen head is the one handed over
	HandoverDurable              // a writer hands over only a head that is durable at the standby site
	HandoverApplied              // a writer hands over only what the target has applied with the same state digest
	SwitchAbort                  // a switchover is aborted by compare-and-swap: never after the demotion
	UncleanSticks                // a head chosen without a quorum leaves its adopters in doubt until an epoch is opened
	AcquireOwn                   // an epoch is acquired only for a service that went on from the stream's last promotion
	ChoiceKnown                  // a log's epoch is known to the record only if a head was chosen in it, not if it was reserved

	// Leases of open and degraded streams.
	LeaseAwaited      // F4: nothing is opened while the old writer may still hold a lease
	LeaseFence        // a node promises nobody else while a lease it granted runs
	LeaseKept         // a node keeps its word through a promise that was made on an attestation: the next plan has none
	LeaseAfterRestart // a node that restarted takes its lease for granted until it must be over
	LeaseNoRenew      // a lease is not renewed once a higher epoch is reserved or was asked for
	LeaseChecked      // a release that needs a lease checks it in the same step
	LeaseBootClock    // a holder counts its lease on the boot clock, which goes on while the machine sleeps
	LeaseCounted      // a holder counts its lease from before it asked

	// The gate of a stream.
	BoundsEnforced   // nothing is released beyond the ceiling
	RegateAfterStart // after a start nothing beyond D is released before D has passed it again
	DegradeRecorded  // a degradation is on record before it takes effect
	RearmEnforced    // bounds are enforced again before the gate is recorded as armed
	ClassStrengthens // a record's class makes the stream's mode stricter, never laxer
	BrakeHolds       // nothing re-arms a gate while its brake is on

	// The detector.
	DetectorProgress // a primary that makes no progress is not simply alive
	DetectorQuorum   // down takes a majority of the vantage points that can be heard

	ruleCount
)

var names = [ruleCount]string{
	PromiseOnDisk: "promise-on-disk", AckAfterSync: "ack-after-sync", EpochFirst: "epoch-first",
	AdoptedEpoch: "adopted-epoch", AdoptQuorum: "adopt-quorum", EpochCheck: "epoch-check", ChainCheck: "chain-check",
	Limbo: "limbo", ReadEpoch: "read-epoch", CaughtUp: "caught-up", FenceQuorum: "fence-quorum",
	ChoiceRecorded: "choice-recorded", ActivateCompare: "activate-compare", NoAckAfterFence: "no-ack-after",
	PromiseHolder: "promise-holder", HeardEpoch: "heard-epoch", TruncateCommon: "truncate-common",
	ApplyCommitted: "apply-committed", ConfigOverlap: "config-overlap", RouteAfterFence: "route-after-fence",
	QuarantineFirst: "quarantine-first", HandoverLossless: "handover-lossless", HandoverDurable: "handover-durable",
	HandoverApplied: "handover-applied", SwitchAbort: "switch-abort",
	UncleanSticks: "unclean-sticks", AcquireOwn: "acquire-own", ChoiceKnown: "choice-known",
	LeaseAwaited: "lease-awaited", LeaseFence: "lease-fence", LeaseKept: "lease-kept", LeaseAfterRestart: "lease-after-restart",
	LeaseNoRenew: "lease-no-renew", LeaseChecked: "lease-checked", LeaseBootClock: "lease-boot-clock", LeaseCounted: "lease-counted",
	BoundsEnforced: "bounds-enforced", RegateAfterStart: "regate-after-start", DegradeRecorded: "degrade-recorded",
	RearmEnforced: "rearm-enforced", ClassStrengthens: "class-strengthens", BrakeHolds: "brake-holds",
	DetectorProgress: "detector-progress", DetectorQuorum: "detector-quorum",
}

// String returns the rule's name, as tests and reports print it.
func (r Rule) String() string {
	if r >= ruleCount {
		return "rule-unknown"
	}
	return names[r]
}

// Rules returns every rule, in the order of their constants.
func Rules() []Rule {
	rs := make([]Rule, ruleCount)
	for i := range rs {
		rs[i] = Rule(i)
	}
	return rs
}
