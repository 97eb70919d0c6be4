// Package seglog is the segment log under the journal and the delta log: self-framing
// records back to back in append-only segment files, with group sync, crash
// recovery, readers beside the appender, cutting into quarantine and trimming.
//
// Promise: a record for which [Log.Sync] returned nil after its [Log.Append]
// survives a power cut; after any crash the log is a prefix of what was
// appended, of whole records. Two logs that were fed the same records under the
// same [Config] have the same segment files, byte for byte, however the appends
// and syncs were grouped. Nothing is deleted to make progress: a torn tail and a
// cut-off end go to quarantine first. Not promised: order between two logs.
//
// # Words
//
//   - index:   what the caller counts records by: a seq, or a byte position; a
//     record covers [index, next)
//   - offset:  bytes of records before a place in the log, over all segments
//   - segment: one file; the newest is the tail, all others are sealed and durable
//   - mark:    the sidecar file that says up to where the log has been synced
//   - torn:    unreadable at or beyond the mark, as a power cut leaves it; truncated
//     into quarantine. Unreadable before the mark is corrupt: an error, nothing touched
//
// # Picture
//
//	appender -> [Log.Append] -> tail segment -> [Reader] (here, or in another process)
//	syncer   -> [Log.Sync]   -> fdatasync, mark
//
// # Concurrency and durability
//
// One goroutine appends; Sync, the getters and readers may run beside it and
// beside each other. CutTo, TrimBefore and Close need the appender to stand
// still. After a failed sync the log is poisoned: every further write is
// tidegate.ErrStopped, for what the disk holds is unknown. The layout is
// described in docs/formats/deltalog.md.
package seglog
