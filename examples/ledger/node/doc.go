// Package node puts a ledger node together: the books, the raft cluster or the
// standby's part, and the HTTP interface.
//
// Promise: a node that was promoted by a failover stays a primary when it is
// started again, with everything it acknowledged since; a node started to follow
// that was primary before, here or of a larger cluster, leads by itself only
// until the standby node beside it says that another site does: it then gives
// its cluster up, forgets what the stream went on without, and follows. Not
// promised: that a node started as a primary comes back by itself after it was
// fenced; it is started again to follow.
//
// # Words
//
//   - primary: takes part in a raft cluster; the leader serves
//   - standby: follows another site through the standby node beside it, without raft
//   - promotion: both books are at the failover's head and branched off; the node
//     seeds a cluster of one from them and serves
//   - term: one stretch of following and leading; the next begins when the ledger
//     is written at another site
//
// # Picture
//
//	Run -> HTTP server (package server)
//	    -> primary: cluster.Run, then the journals' Run
//	    -> standby: replay, the journals' Run ... Promote -> cluster.Seed -> cluster.Run
//	                                          ... Following -> cluster.Retire, follow
//
// A Node runs once. Everything durable lies below Config.Dir: journal/<currency>,
// raft, and raft-left-<id> of terms that are over.
package node
