// Package model searches every order of events of the fence protocol in small
// worlds: an explicit-state model beside the code of package fence.
//
// Promise: in a world that a search exhausted, no order of the steps below
// breaks one of the invariants below; where it was bounded, none of at most
// Result.Depth steps of those it looked at. A broken invariant comes with the
// shortest way to it. Not promised: that the code does what the model does. A
// test walks at random through the model and makes the real Node, Controller and
// Writer take the same steps (replay_test.go): what the model permits they must
// do, with the same outcome, and what it forbids they must refuse. It compares,
// it does not prove; built with the tag `mutate` it must notice broken cores.
//
// # Words
//
//   - world:    a [Config]: how many nodes, epochs and batches, which faults and how often
//   - slot:     one reserved epoch with its plan, its controllers and its holder. Slots
//     and epochs have the same numbers until the registry is put back
//   - batch:    b2.1 is the first batch that the holder of slot 2 produced; b1.1by2 is
//     what slot 1 produced, found in the journal and sealed again by slot 2
//   - mutation: a world in which a [Rule] does not hold
//
// # Picture
//
//	state = epoch key | slots: plan, controllers, writer | nodes: one column each
//	          |             |                                |
//	          v             v                                v
//	[Config] -> every step that is possible -> sort columns -> hash -> seen before?
//	                                                |
//	                                                v
//	                       invariants, in every state and every step
//
// A node's column holds all that anybody knows of it: its promise and log, what
// it acked to each writer, what each controller remembers of its answers, in
// which configurations it is. Nothing refers to a node by number, so states that
// differ only by the names of nodes are one state, exactly, by sorting columns.
//
// # What is modelled
//
//   - nodes: promise as enforced and as on disk, adopted term, log and how much of
//     it is synced, limbo, a new incarnation, the read of the record, leaving limbo
//   - faults: a crash loses what is not synced; a disk is lost; replies are lost;
//     acks arrive at any later time or never; messages of a controller that is
//     superseded go on arriving; any process stops for ever at any step
//   - controllers: F1 reserve, F2 promises, F3 recorded choice, F5 adoption in time,
//     late and overtaken halfway, F6 compare-and-swap with the full configuration or
//     a smaller one; duels of plans for other epochs, and of two controllers of one plan
//   - starts: an agent that restarts is another holder under another epoch; what its
//     journal holds beyond the head is sealed again and shipped before it is released
//   - the gate: degradation by compare-and-swap against a failover, what a failover
//     then claims, enforcement and re-arming, a restarted agent under DEGRADED
//   - the switchover: SWITCHING, draining, DEMOTED with the head handed over, abort
//   - the registry put back from the backup of the beginning, and noticed
//
// The invariants are [I1] to [I17], each stated beside its name. That what a gate
// in sync let go is never behind a later head (I15) is I6 here: it lets go what is
// durable.
//
// # What is not modelled
//
// Time, and with it leases, the soft zone, bounds other than zero and BLIND_OK;
// more than one stream; adding members; the target of a failover and its warm
// copy; the route; corrupt disks; liveness. The simulator covers those.
//
// # Why it may be this small
//
//   - An ack is heard when it is sent, unless LateAcks: what is durable earlier is
//     released earlier, and all else that durability permits it permits earlier.
//   - Whatever may be released is released at once: only more can be lost.
//   - Receiving and syncing are one step, unless Unsynced: what a crash takes before
//     it was acked is as if it had never arrived.
//   - A writer that learns that it is over does nothing more; so does one that gets
//     no turn.
//
// LateAcks and Unsynced are on in some of the worlds, so that the first and the
// third of these are themselves checked.
//
// # Findings
//
// Three rules are needed only beside others, which [Mutations] shows: read-epoch
// beside the naming of incarnations, the compare-and-swap of F6 where the
// configuration may shrink, heard-epoch for progress. One is needed that the
// papers did not name, rearm-proven: a record that says UNKNOWN (the registry was
// put back) may name a holder that was fenced long ago and does not know. Nothing
// may be built on it, neither a degradation nor a member that leaves limbo nor a
// switchover, until that holder has recorded ARMED with fresh acks of W members
// that still stand by its epoch.
//
// `go test` searches [Bounded] and [Mutations]; `make model` searches [Full] and
// prints a table and every counterexample.
package model
