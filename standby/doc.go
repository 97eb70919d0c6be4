// Package standby is the standby node: it receives sealed batches, keeps them,
// fans them out to the other nodes of the stream, applies what is committed to
// the warm service beside it, and obeys the gate's fence, adopt and promote.
//
// Promise: an ack names only batches that survive a power cut, under a promise
// that is on disk, and only of generations that this node could rebuild: whose base
// it holds, with log that reaches the base's end; nothing is applied before it is
// committed; what is cut from a log was in quarantine before; after a failed fsync
// the node stops and says so. Not promised: that a batch's payload opens; only the
// apply path looks inside.
//
// # Words
//
//   - feed: an attached writer or relay; the batches come from it
//   - relay: this node while the stream's writer is attached to it
//   - learner: a configured node that the active epoch does not count; it follows, is
//     fed by the relay, and rests while the stream is written at its own site
//   - tail: what a library's journal held that the stream went on without
//   - group sync: one fdatasync per dirty log, all logs of the node together
//   - fault: why a stream is not served although it should be
//   - view: what the gate last told: streams, epoch records, members, addresses
//
// # Picture
//
//	writer --batches--> feed -> [deltalog] -> cursor -> relay sessions -> other nodes
//	   ^                          | group sync            |
//	   +--- acks, feedback -------+-----------------------+ the same, unchanged
//	                              +-> cursor, up to commit -> library (internal/local)
//	                              +-> up to commit -> [archive.Writer] -> bucket; nothing waits for it
//	bucket, package drop --sessions of agents that nothing else crosses from--> feed
//	gate -- fence, adopt, promote --> fence.Node, one lock per stream
//
// # Order of locks and effects
//
// A stream's lock is held for memory and for the append of one batch to the
// operating system, never for a sync, a metadata write or the network. Effects of
// the core that do I/O run in their order on the stream's own worker; fetches
// and chain questions run beside it. Every goroutine belongs to [Standby.Run].
//
// # Data directory
//
//	node.json            identity of the directory; made by [Format] only
//	view.json            the gate's last word, used while no gate can be reached
//	streams/<id>/meta.json   promise, history, limbo (fence.NodeMeta)
//	streams/<id>/log/        delta log
//	streams/<id>/base/       bases (package snapshot); held.json names those that count
//	streams/<id>/rooted      the log says everything, unless begin.json says that it was trimmed
//	streams/<id>/suspect.json   after a failed sync: what of the log is certain; also in the run directory
//	streams/<id>/follower    the service beside the node was told to follow another site
//	streams/<id>/tail-<id>.json account of what the library beside the node left behind
//	quarantine/<id>/...      what was cut or torn; never deleted here
//
// All methods of a [Standby] may be called concurrently.
package standby
