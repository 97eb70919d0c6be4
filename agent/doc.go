// Package agent runs beside every service that may be active: it captures the
// service's log, seals it into batches, ships them to a standby node, and tells
// the service what is durable at the DR site.
//
// Promise: nothing is shipped before the service has made it durable; a batch,
// once sealed, keeps its bytes and its seq for every standby node it is ever
// sent to; a new writer ships only after it has found, in its own copy of the
// log, the content that the standby nodes hold; an agent that learns of a newer
// epoch never writes under the old one again; nothing of a service's log is
// changed or deleted. Not promised: that the service obeys the gate; the
// ceiling is computed where outputs are released, in the journal library.
//
// # Words
//
//   - writer:   the one agent that may seal batches of a stream, in one epoch
//   - observer: every other agent with a running service: compares digests, stands ready
//   - proof:    equal content digests of the ranges at the end of the shipped log
//   - ring:     the sealed batches that are not durable yet, kept for resending
//
// # Picture
//
//	journal library <--socket--> stream --- gate client <--Connect--> gates
//	       |                       |
//	  segment files --Source--> writer: seal -> ring -> session -> relay (standby)
//	                               ^                        |
//	                               +---- D <--- acks -------+
//
// # Backlog
//
// The ring is bounded in bytes. When it is full capture stops, and the journal
// itself is the backlog: it retains what has not been shipped, on the same disk
// on which a spool would lie. A disk spool would write every byte twice and
// keep nothing longer, so there is none for sources that retain.
//
// [New] does no I/O; [Agent.Run] owns every goroutine it starts. The methods of
// an Agent may be called concurrently. What the agent writes (the quarantine
// and its last holder id) is fsynced, directories included, before anything
// relies on it. The protocols are docs/formats/local.md and ship.md.
package agent
