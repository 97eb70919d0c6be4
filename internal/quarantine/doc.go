// Package quarantine is the one form in which everything that was moved out of the
// way is described, and the one place that lists it.
//
// Promise: a summary says what its writer knew and leaves out what it did not: a
// number that is absent is unknown, and never 0; [Find] changes nothing, needs no
// daemon, and lists what it cannot read together with the reason. Not promised: that
// the bytes beside a summary are whole; their presence and sizes are compared with
// what it says, their content is not read.
//
// # Words
//
//   - bundle:  a directory (or, of a torn end, a file) that was moved or copied here
//   - summary: the file summary.json in it, written when the rest of it is durable
//   - tail:    the end of a log that the stream went on without
//   - aside:   something whole that was in the way: a damaged log, a data directory
//
// # Picture
//
//	deltalog, journal, agent, stores/postgres -> [Write] -> summary.json
//	cmd/tidegate quarantine list, show -> [Find] -> [Bundle]
//
// Functions may be called concurrently, for different bundles. The bytes are in
// docs/formats/quarantine.md.
package quarantine
