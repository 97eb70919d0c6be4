// Package client is the ledger's load client and its checker: the witness of
// what was acknowledged, independent of everything that did the acknowledging.
//
// Promise of [Load]: a transfer is written down only after a 200 for it was
// read, and a request whose outcome is unknown is sent again, unchanged, until
// it is known. Promise of [Check]: a transfer counts as recovered only if the
// target's own journal, replayed here from its beginning, carries it out exactly
// once and at the acknowledged position, and the replayed state has the digest
// that the target names.
// Not promised: that an answer lost together with this process was written down.
//
// # Words
//
//   - ack file:  one JSON line per acknowledged transfer, fsynced in groups
//   - silence:   longest time without any acknowledgement, which in a failover is
//     what the clients felt
//
// # Picture
//
//	Load -> N workers -> POST /transfers -> 200 -> ack file
//	                                                  |
//	Check <- GET /journal, GET /digest <- target   Check -> Report
//
// A Load and a Check are each run once; their results may be read after that.
package client
