// Package book keeps the books of the ledger: per currency one journal, the
// state that its records lead to, and a lock around the two.
//
// Promise: the state is always that of a prefix of the journal; a record whose
// outcome [Book.Append] returned is fsynced; the journal's bytes depend on the
// records alone, so that replicas have the same. Not promised: that an outcome
// may leave the process: that is the gate's word ([Book.Release]).
//
// # Words
//
//   - book:  one currency's journal and state
//   - shelf: the books of all currencies, opened and run together
//   - desk:  whoever is told of promotion, fencing and following; the role of the node
//
// # Picture
//
//	raft entries ---> [Book.Append] --> journal --> agent
//	                       |
//	                       v
//	standby node -> journal -> state --> balances, digests, snapshots
//
// All methods may be called concurrently, except that one goroutine at a time
// may append, apply or install.
package book
