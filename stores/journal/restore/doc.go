// Package restore rebuilds a journal's directory from its log alone.
//
// Promise: the restored directory holds, byte for byte, the segments that the
// journal had up to the target, which is a record's end; the library has opened it
// before it gets its name. Not promised: the service's own state, which it rebuilds by
// replay; that the journal may be written beside the one that it was restored of.
//
// # Picture
//
//	batches --> [Restorer.Batch] --> journal.AppendRaw --> restoring/
//	            [Restorer.Finish]: synced, opened, renamed --> journal/
//
// One goroutine at a time uses a Restorer, but as stores.Restorer says.
package restore
