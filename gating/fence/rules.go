package fence

// rule names a safety rule of the protocol that a simulator built with the tag
// `mutate` can switch off, to prove that it would notice. In any other build
// broken is a constant and the branches vanish: no configuration reaches them.
type rule uint

const (
	rulePromiseOnDisk   rule = iota // a promise is on disk before it is replied
	ruleAckAfterSync                // only what is fsynced is acknowledged
	ruleEpochFirst                  // the best log is compared by (adopted epoch, length)
	ruleAdoptedEpoch                // a log's epoch is the adopted one, not the promised one
	ruleAdoptQuorum                 // W adopters before ACTIVE
	ruleEpochCheck                  // an append must match promise and adopted term
	ruleLimbo                       // a node that lost its disk does not vote
	ruleReadEpoch                   // a node that lost its disk reads the epoch record before it obeys anybody
	ruleFenceQuorum                 // R = N-W+1 replies
	ruleChoiceRecorded              // the chosen head is in the record before anybody adopts it
	ruleActivateCompare             // ACTIVE is written by compare-and-swap
	ruleNoAckAfterFence             // after a promise nothing is acknowledged under an older epoch
	ruleCount
)
