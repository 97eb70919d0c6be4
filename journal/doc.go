// Package journal lets an event-sourced service keep its history where a
// disaster cannot take it: an append-only log on the local disk that Tidegate
// carries to another site, and the gate that says when an output may leave.
//
// Promise: a record for which [Journal.Append] returned, or up to which
// [Journal.WaitDurable] returned, survives kill -9 and a power cut; a position
// for which [Journal.Await] returned was released within the bounds of the
// stream's gate. Two journals that are fed the same records hold the same bytes
// at the same positions. New work is slowed down, or refused, before the gate
// would hold its outputs back for long; see docs/gate-states.md. Not promised:
// that a record whose Append returned an error is absent, unless the error has a
// [Closed] in its tree.
//
// # Words
//
//   - record: the unit that is appended, applied and shipped whole
//   - position: byte offset in the stream of records; a record occupies [First, Next)
//   - active: this service accepts writes; following: it applies what another wrote
//   - branch: a record by which a promoted follower forks the history off
//   - fenced: another site holds the stream; nothing may be appended or released
//   - draining: a planned handover; no new work, what is in flight is finished
//   - state: what the service has come to; written down as of a position, see [Snapshotter]
//   - rewind: cut a journal that went another way than the stream, into quarantine
//
// # Picture
//
//	service --Append--> [Journal] ----segment files----> agent --> DR site
//	service <--Await--- [Journal] <--durable position--- agent
//
//	service <--Apply--- [Journal] <--committed batches-- standby node
//	service <-Promote-- [Journal] <--role--------------- standby node
//
// A service on the active node opens the journal, starts [Journal.Run] beside
// its own work, calls [Journal.Activate] when its cluster makes it the leader,
// appends each event, executes it, and answers its client once Await has
// returned for the event's position. A service that replicates its events before
// it journals them asks [Journal.Admit] first. The same program on a standby node
// only implements [Service], [Rewinder] to come back after it was primary, and
// [Snapshotter] so that a restart begins at the state it wrote down last, a new node at
// that of another, and the other site's log need not be kept for ever.
//
// All methods of a Journal may be called concurrently. One process at a time
// has a journal open; others read it with [OpenReader]. Bytes are fsynced, and
// new segment files' names too, before Append returns; a failed fsync stops the
// journal for good. The format is docs/formats/journal.md.
package journal
