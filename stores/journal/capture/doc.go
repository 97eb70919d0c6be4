// Package capture reads a journal that the service beside the agent writes: the
// primary half of the journal store.
//
// Promise: as for [stores.Source]; every record's checksum is verified before
// it is given on, and nothing beyond the limit is looked at, so that a record
// which is being written is never mistaken for a torn one.
// Not promised: that the journal's own process is alive; its files are enough.
//
// # Picture
//
//	service -> journal.Journal -> segment files -> [Source] -> agent
//
// A Source may be used concurrently; a cursor by one goroutine. Nothing is
// written. The format is docs/formats/journal.md.
package capture
