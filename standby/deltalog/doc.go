// Package deltalog keeps a stream's sealed batches on a standby node, exactly
// as received.
//
// Promise: a batch covered by a position that [Log.Sync] returned survives a
// power cut, byte for byte. Every batch in the log has passed its CRCs, follows
// its predecessor in seq and chain, and belongs to the log's stream. Cut-off
// batches lie in quarantine, synced, before they leave the log. Not promised:
// that payloads open; the log never looks inside.
//
// # Words
//
//   - end:     the position after the newest batch, received
//   - durable: the newest position that was synced
//   - cursor:  a reader that follows the appends and owns only its buffer
//
// # Picture
//
//	session -> [Log.AppendVerified] -> segments -> [Cursor] -> fan-out, apply
//	node's group syncer -> [Log.Sync] -> ack
//
// One goroutine appends; Sync, the getters and cursors may run beside it. CutTo
// and Close need the appender to stand still. The layout is
// docs/formats/deltalog.md.
package deltalog
