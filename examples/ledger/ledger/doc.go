// Package ledger is the pure state machine of the money ledger: accounts of one
// currency, and what a journaled command does to them.
//
// Promise: the same records in the same order give the same state, the same
// outcomes and the same [State.Digest] on every machine and in every process.
// No clock, no randomness, no iteration over a map decides anything. Money is
// only ever moved: the balances and the minted total agree after every record.
// Not promised: order between currencies; each is a stream of its own.
//
// # Words
//
//   - command: what a client asked for, in the bytes that are journaled
//   - outcome: what came of it; a refusal is an outcome like any other
//   - mint:    the counter-account of deposits; its balance is minus the minted total
//   - window:  the newest [Window] request numbers of a client, whose outcomes are
//     remembered so that a repeated request is answered and not carried out again
//   - checkpoint: a position, every [CheckpointRecords] records, whose digest is kept
//
// # Picture
//
//	journal record -> [State.Apply] -> [Outcome]
//	                       |-> [State.Digest], [State.AppendSnapshot]
//
// A State is not safe for concurrent use: its owner (package book) locks it.
// The digest is a sum of per-item hashes, see [State.Digest] for what that proves.
// The bytes of a command and of a snapshot are described beside their encoders
// and kept as golden files in testdata/v1.
package ledger
