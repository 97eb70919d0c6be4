// Package rpo is the arithmetic of what a disaster would lose and of how long a
// recovery takes: the gate's ceiling, the pace of new work, exposure and its
// time-weighted sums, clock offsets, and the phases of a failover.
//
// Everything here is pure: no goroutine, clock, file or socket. Time comes in
// as a [tidegate.Instant] of the caller's one boot-time clock. Nothing is
// promised about values whose Known flag is false; they are upper bounds where
// the field says so, and are never to be shown as 0.
//
// # Words
//
//   - L: head, newest position that is durable on the primary
//   - D: newest position that is durable at the DR site
//   - A: newest position whose outputs were released
//   - ceiling: highest position that may be released now
//   - exposure: released but not durable, (D, A]
//   - in doubt: on the primary but not released, (A, L]
//   - class: durability that one release asks for, never weaker than the stream's
//   - utilisation: largest used share of a bound
//   - lease: permission to release beyond D until an instant
//
// # Picture
//
//	            Append      Release       Durable
//	journal ------------> [Ceiling] <------------- acks
//	                       |      | Limit, Exposure
//	              Standing |      v
//	                       |   outputs, [Meter] -> areas, histogram
//	                       v
//	   [DrainRate] -> gating/machine -> [Throttle] -> new work
//
// No type here is safe for concurrent use. The formula and its reasons are in
// docs/ARCHITECTURE.md, "Ceiling".
package rpo
