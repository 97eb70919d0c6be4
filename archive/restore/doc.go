// Package restore rebuilds a store out of an archive alone: it chooses a base and the
// log behind it, looks whether the target directory will do, and hands both over to
// the store's own restorer.
//
// Promise: nothing is written before the directory was found empty, or to hold an
// earlier attempt at the same, and large enough; every byte was verified before it is
// handed over; what is cut off anywhere goes on where it was, with what is on disk
// compared again. Not promised: anything about a base or log that the archive does
// not have.
//
// # Words
//
//   - target:  where the restored state ends
//   - plan:    base, range of log, and bytes
//   - attempt: restore.json in the directory, which says what an unfinished restore is of
//
// # Picture
//
//	archive.Stream -> [Choose] -> [Plan] -> [Plan.Check] -> [Plan.Run] -> stores.Restorer
//	                              |                             |
//	                              +-> [Plan.Predict] <- past <--+ [Plan.Took]
//
// A Plan belongs to one goroutine; a [Meter] may be read at any time. Attempts are
// written durably.
package restore
