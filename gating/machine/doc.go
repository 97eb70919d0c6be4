// Package machine decides what a stream's gate does at the edge of its bounds:
// slow new work down, refuse it, ask for permission to go on unprotected, arm
// itself again, drain for a planned handover.
//
// Promise: bounds are enforced unless the gate's record said degraded, or said
// blind-ok and the policy and the grace permit it; arming is asked for only
// while bounds are enforced and what was released lies within them; what is shown
// about the flow changes at most once per [FlowHold]. Not promised: that the
// record follows. The ceiling (package rpo) decides about each single release,
// and is exact; the machine only tells it which bounds hold.
//
// # Words
//
//   - closed: a bound is reached and D has not moved for [StallAfter], or the time bound is reached
//   - grace:  how long it stays closed before the policy's reaction sets in
//   - record: the stream's gate state in the registry, as the agent last read it
//   - want:   what the machine asks the agent to write there
//
// # Picture
//
//	ceiling: utilisation, held back, D --+
//	agent: record, policy, brake, drain -+-> [Machine.Step] -> unbounded? refuse? rate, want, state
//	service: active ---------------------+
//
// A Machine is pure: no goroutine, clock, file or socket. It is not safe for
// concurrent use. The table is drawn in docs/gate-states.md.
package machine
