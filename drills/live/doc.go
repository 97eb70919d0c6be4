// Package live is the drills of levels L2, L3 and L4: they move the live service there and
// back, or have it meet a fault, and time what comes of it through the clients' own route.
//
// Promise: a fault that was injected is healed, whatever happens in between, and the next
// drill heals what a killed one has left; what cannot be healed fails the drill and is
// named. A service is never left half moved: a change of role that the gate has begun is
// waited for. An acknowledged canary that is not there afterwards is counted and named.
// What was not measured is unknown, never 0. Not promised: isolation. These drills need an
// operator's certificate, and harm the service by design.
//
// # Words
//
//   - scenario:    a named fault, and the [Expectation] of what service and gate do then
//   - rides out:   no role changes, protection comes back once the fault is healed
//   - fails over:  the gate notices, and the drill does what an operator does then
//   - sight:       what the gates say at one moment
//   - steady:      canaries written through the route all the time, before, during and after
//   - course:      the steps of a drill, see [Course]
//
// # Picture
//
//	gates <- look, doctor, change role -- [Control] --+
//	route <- canaries, checks -- probe.Asker ---------+--> [Drill] -> evidence.Report
//	operator's commands <- inject, heal --------------'      |
//	                            pure: [Course], [Witness], [Tally], [Phases]
//
// [Drill.Run] owns every goroutine and process that it starts; [Drill.Progress] may be
// called beside it. What is pure is not safe for concurrent use. Evidence is written by the
// caller; a note of an open fault lies beside it: docs/operating/drills.md.
package live
