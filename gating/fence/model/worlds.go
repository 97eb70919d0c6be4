package model

// Bounded returns the worlds that every test run searches: small, but each kind
// of fault and action is in at least one.
func Bounded() []Config {
	return []Config{
		{Name: "failover", N: 3, W: 2, Slots: 3, Batches: 1, Log: 2, Crashes: 1, Losses: 1, Unsynced: true, States: 20_000},
		{Name: "majority", N: 2, W: 1, Slots: 3, Batches: 1, Log: 2, Crashes: 1, Wipes: 1, Losses: 1},
		{Name: "late acks", N: 2, W: 2, Slots: 3, Batches: 1, Log: 2, LateAcks: true, Unsynced: true, Crashes: 1},
		{Name: "wipe", N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Wipes: 1},
		{Name: "duel", N: 3, W: 2, Slots: 3, Batches: 1, Log: 2, Twins: true, Halfway: true},
		{Name: "shrink", N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Shrink: true, Twins: true},
		{Name: "restart", N: 2, W: 2, Slots: 3, Batches: 1, Log: 2, Restarts: 1, Degrades: 1},
		{Name: "switchover", N: 2, W: 2, Slots: 3, Batches: 1, Log: 2, Switches: 2, Restarts: 1},
		{Name: "restore", N: 2, W: 1, Slots: 4, Batches: 1, Log: 1, Restores: 1, Switches: 1, States: 20_000},
	}
}

// Full returns the worlds of `make model`: some five million states. Those with
// a limit are too large to be exhausted; smaller ones of their kind are beside them.
func Full() []Config {
	return []Config{
		{Name: "failover", N: 3, W: 2, Slots: 4, Batches: 1, Log: 2, Crashes: 1, Unsynced: true},
		{Name: "two batches", N: 3, W: 2, Slots: 3, Batches: 2, Log: 3, Losses: 1},
		{Name: "late acks", N: 3, W: 2, Slots: 3, Batches: 1, Log: 2, LateAcks: true, Crashes: 1},
		{Name: "two of two", N: 2, W: 2, Slots: 4, Batches: 1, Log: 2, Crashes: 1, Wipes: 1, Losses: 1, Unsynced: true},
		{Name: "wipe", N: 3, W: 2, Slots: 3, Batches: 1, Log: 2, Wipes: 2},
		{Name: "duel", N: 3, W: 2, Slots: 4, Batches: 1, Log: 2, Twins: true, Halfway: true},
		{Name: "shrink", N: 2, W: 2, Slots: 4, Batches: 1, Log: 2, Shrink: true, Twins: true},
		{Name: "shrink, wipe", N: 3, W: 3, Slots: 4, Batches: 1, Log: 2, Shrink: true, Wipes: 1, States: 200_000},
		{Name: "restart", N: 3, W: 2, Slots: 4, Batches: 1, Log: 2, Restarts: 2, Wipes: 1, States: 200_000},
		{Name: "degrade", N: 3, W: 2, Slots: 3, Batches: 1, Log: 2, Restarts: 1, Degrades: 2},
		{Name: "switchover", N: 2, W: 2, Slots: 4, Batches: 1, Log: 2, Restarts: 2, Switches: 2},
		{Name: "switch, open", N: 3, W: 2, Slots: 4, Batches: 1, Log: 2, Switches: 2, Degrades: 1, Restarts: 1, States: 200_000},
		{Name: "restore", N: 2, W: 2, Slots: 4, Batches: 1, Log: 1, Restores: 1, Degrades: 1},
		{Name: "restore, wipe", N: 3, W: 2, Slots: 4, Batches: 1, Log: 1, Restores: 1, Degrades: 1, Wipes: 1, States: 200_000},
	}
}

// Mutation is a world in which rules do not hold, and what comes of it.
type Mutation struct {
	Config
	Want  Invariant // the invariant that breaks first; "" when none does
	Steps int       // on the shortest way there
	Why   string    // where no invariant breaks: what keeps them
}

// Mutations returns, for every rule, a small world that shows what it is for.
// Where a rule alone breaks only what it says itself (I2, I5, I14), the harm that
// comes of it is looked for instead. Some rules are needed only beside others:
// those are listed alone, with the reason, and together.
func Mutations() []Mutation {
	i6 := []Invariant{I6}
	harm := []Invariant{I6, I7, I13}
	broken := func(rs ...Rule) []Rule { return rs }
	return []Mutation{
		{Want: I6, Steps: 11, Config: Config{Broken: broken(PromiseOnDisk), Look: i6, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Crashes: 1}},
		{Want: I6, Steps: 11, Config: Config{Broken: broken(AckAfterSync), Look: i6, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Crashes: 1}},
		{Want: I6, Steps: 19, Config: Config{Broken: broken(EpochFirst), Look: i6, N: 3, W: 2, Slots: 3, Batches: 1, Log: 1}},
		{Want: I6, Steps: 12, Config: Config{Broken: broken(AdoptedEpoch), Look: i6, N: 3, W: 2, Slots: 3, Batches: 1, Log: 1}},
		{Want: I6, Steps: 14, Config: Config{Broken: broken(AdoptQuorum), Look: i6, N: 3, W: 2, Slots: 3, Batches: 1, Log: 1}},
		{Want: I14, Steps: 6, Config: Config{Broken: broken(AdoptQuorum), N: 3, W: 2, Slots: 2, Batches: 1, Log: 1}},
		{Want: I6, Steps: 10, Config: Config{Broken: broken(EpochCheck), Look: i6, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1}},
		{Want: I8, Steps: 19, Config: Config{Broken: broken(ChainCheck), N: 3, W: 2, Slots: 3, Batches: 2, Log: 2}},
		{Want: I6, Steps: 11, Config: Config{Broken: broken(Limbo), Look: i6, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Wipes: 1}},
		{
			Why:    "a node in limbo may be led astray by a writer that is over, but its acks count for nobody: no record names its incarnation",
			Config: Config{Broken: broken(ReadEpoch), N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Wipes: 1, States: 20_000},
		},
		{
			Why:    "a node in limbo that read the record stands by its newest promise, and does not vote",
			Config: Config{Broken: broken(Named), N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Wipes: 1, States: 20_000},
		},
		{Want: I6, Steps: 12, Config: Config{Broken: broken(ReadEpoch, Named), Look: i6, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Wipes: 1}},
		{Want: I6, Steps: 14, Config: Config{Broken: broken(CaughtUp), Look: i6, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Wipes: 1}},
		{Want: I6, Steps: 9, Config: Config{Broken: broken(FenceQuorum), Look: i6, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1}},
		{Want: I7, Steps: 23, Config: Config{Broken: broken(ChoiceRecorded), Look: harm, N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Twins: true}},
		{
			Why:    "with a fixed configuration the quorums alone keep what was released; two holders would still serve",
			Config: Config{Broken: broken(ActivateCompare), Look: harm, N: 3, W: 2, Slots: 3, Batches: 1, Log: 1},
		},
		{Want: I6, Steps: 12, Config: Config{Broken: broken(ActivateCompare), Look: i6, N: 2, W: 2, Slots: 3, Batches: 1, Log: 1, Shrink: true}},
		{Want: I5, Steps: 6, Config: Config{Broken: broken(NoAckAfterFence), N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Unsynced: true}},
		{
			Why:    "a promise syncs what was received and answers with it: what is acked late is part of the answer",
			Config: Config{Broken: broken(NoAckAfterFence), Look: harm, N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Unsynced: true, States: 20_000},
		},
		{Want: I2, Steps: 3, Config: Config{Broken: broken(FreshHolder), N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Restarts: 1}},
		{Want: I7, Steps: 12, Config: Config{Broken: broken(FreshHolder), Look: harm, N: 3, W: 2, Slots: 2, Batches: 1, Log: 1, Restarts: 1}},
		{Want: I13, Steps: 14, Config: Config{Broken: broken(RegateAfterStart), N: 2, W: 2, Slots: 3, Batches: 1, Log: 1, Restarts: 1}},
		{Want: I13, Steps: 8, Config: Config{Broken: broken(DegradeRecorded), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Degrades: 1}},
		{Want: I13, Steps: 9, Config: Config{Broken: broken(RearmEnforced), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Degrades: 1}},
		{Want: I13, Steps: 16, Config: Config{Broken: broken(RearmCovered), N: 2, W: 2, Slots: 3, Batches: 1, Log: 1, Degrades: 1, Restarts: 1}},
		{Want: I13, Steps: 8, Config: Config{Broken: broken(GateInReserve), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Degrades: 1}},
		{Want: I17, Steps: 7, Config: Config{Broken: broken(HandoverDurable), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Switches: 1}},
		{Want: I17, Steps: 8, Config: Config{Broken: broken(HandedOver), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Switches: 1}},
		{Want: I1, Steps: 4, Config: Config{Broken: broken(HandoverCompare), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Switches: 1}},
		{
			Why:    "nodes refuse an epoch that is not above their promise: nothing opens, and nothing is claimed",
			Config: Config{Broken: broken(HeardEpoch), N: 2, W: 2, Slots: 4, Batches: 1, Log: 1, Restores: 1},
		},
		{Want: I1, Steps: 15, Config: Config{Broken: broken(PromiseHolder), N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Restores: 1}},
		{Want: I7, Steps: 21, Config: Config{Broken: broken(PromiseHolder), Look: harm, N: 3, W: 2, Slots: 3, Batches: 1, Log: 1, Restores: 1}},
		{Want: I13, Steps: 9, Config: Config{Broken: broken(RestoreNoticed), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Restores: 1, Degrades: 1}},
		{Want: I13, Steps: 9, Config: Config{Broken: broken(RearmProven), N: 2, W: 2, Slots: 2, Batches: 1, Log: 1, Restores: 1, Degrades: 1}},
	}
}
