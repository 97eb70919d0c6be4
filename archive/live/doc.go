// Package live shows what a standby node has of its streams as if it were an
// archive, so that whatever reads one reads a node: `tidegate restore` rebuilds a store
// out of the standby cluster by the same plan, and proves it by the same checks.
//
// Promise: what it gives was committed when it was opened, and is sealed as the writer
// sealed it; nothing of the node is changed. Not promised: that the node keeps what it
// had. It may trim its log meanwhile; then reading ends with tidegate.ErrGap.
//
// # Picture
//
//	node's log ---- sessions as observer and reader ---> segments \
//	node's base, [Bucket.Fetch] -- session, stage ------> mirror --+-> [Bucket] -> archive.Reader
//
// A [Bucket] may be used concurrently. It writes to its stage alone, durably. The
// sessions are those of docs/formats/ship.md.
package live
