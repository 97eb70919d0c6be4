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
//   - ring:     the sealed batches that fewer than W nodes have stored, kept for resending
//   - grant:    what the library is told it may do; numbered, and the library says which it obeys
//   - lane:     by which way sessions go: live, or through a bucket while nothing crosses live
//   - warm copy: what a standby node feeds the log to; how far it is, and what it asks
//     of the source, are told to a library that wants to hear it
//
// # Picture
//
//	journal library <--socket--> stream --- gate client <--Connect--> gates
//	       |                       |
//	  segment files --Source--> writer: seal -> ring -> session -> relay (standby)
//	                               ^                        |
//	                               +---- D <--- acks -------+
//
// # Who may ask for an epoch
//
// An agent asks once its service is active and it has compared the newest batches of
// the standby nodes with its own log. Where the source says that an active service
// is whole ([stores.Spare]), the nodes are asked anew after each activation, as many
// as it takes to know of whatever is durable, and the one that holds most is
// compared: a service that its own cluster made active behind the nodes is found out
// before anybody is deposed for it, and named. To a source beside another writer of
// the same site the agent says whether its service must hold outputs back when it
// takes over, and what of its log need not be kept.
//
// # What is recorded when
//
// The stream's record at the gate never claims more than what happens here. What
// loosens (degraded, a wider bound, no lease) is recorded by compare-and-swap,
// and told to the library once the gate has answered; what tightens is told
// first, and recorded once the library reports a grant that has it, and nothing
// is out that the record would deny. A compare that fails changes nothing: the
// gate stays as it is until the watch says why.
//
// An open or degraded gate lets go beyond D only under an output lease, where
// the record names one. It is renewed every third of its life through the gates,
// and counted from before each call, on the boot clock, less a margin for drift
// and for a release under way. When half of it is gone and no gate answers, the
// standby nodes are asked, one ask with each beacon, and W of their words do; a
// gate that said no is not got round. The check is the library's, at each
// release: an agent or a machine that slept cannot let anything go.
//
// In a planned switchover all libraries of the service drain; once everything is
// sealed, one handover batch ends each stream, and when W nodes hold it and the
// target has applied it, all epochs are given up in one call. Until that call is
// answered it can be called off, and the same term goes on.
//
// # A new generation
//
// When the source does not continue the log, somebody declares at the gate that what
// it holds up to an epoch is given up, or the agent's policy does. The term ends, the
// source begins anew, and the next epoch's first batch opens the next generation. The
// library is told no D before that is inside: nothing below it is durable there.
//
// # Rates
//
// The operator's files (package rates) limit what is captured, what is shipped,
// and what the service may take on, with every API dead.
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
