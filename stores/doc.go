// Package stores is where a replicated store meets the rest: the interface that
// the agent captures through. A store is one folder below this one.
//
// Promise of an implementation, checked by storestest: units are whole, in
// order and without a hole; a unit never reaches beyond the limit that the
// caller names as durable; the same range read twice, in another process or on
// another replica, has the same digest.
// Not promised: that old ranges stay readable; a source trims by its own rules.
//
// # Words
//
//   - unit:   consecutive records of the source's log, as bytes that are never split
//   - cursor: a place in the source's log from which units are read on
//   - spare:  the store beside an agent that does not write, which its own cluster may promote
//   - record: what the stream counts; every unit is whole in the store's own records, which may be more
//
// # Picture
//
//	store's log -> Source.Follow -> Cursor.Read -> agent (seals, ships)
//	                     \-> Source.Reread -> digest (log-matching proof)
//
// Where nothing else of Tidegate is left, a [Restorer] rebuilds the store out of an
// archive's base and batches.
//
// A Source may be used concurrently, a Cursor by one goroutine. Nothing here
// writes. The standby side is driven over internal/local, by the journal's library or
// a store's connector.
package stores
