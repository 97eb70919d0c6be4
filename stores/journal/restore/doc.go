// Package restore rebuilds a journal's directory from its log, alone or behind a base.
//
// Promise: the restored directory holds, byte for byte, the records that the journal had
// up to the target, which is a record's end: all of them, in the same segments, from the
// log alone; from a base on, those behind it, and beside them the state of the service
// that the base has. The library has opened it before it gets its name, and gives the
// state to the service when that starts, as it does on a standby node. Not promised:
// the service's own state otherwise, which it rebuilds by replay; that the journal may be
// written beside the one that it was restored of.
//
// # Picture
//
//	base    --> [Restorer.Create] --> journal.CreateState, BeginAt
//	batches --> [Restorer.Batch]  --> journal.AppendRaw --> restoring/
//	            [Restorer.Finish]: synced, opened, renamed --> journal/
//
// One goroutine at a time uses a Restorer, but as stores.Restorer says.
package restore
