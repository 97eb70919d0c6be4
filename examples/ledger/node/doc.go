// Package node puts a ledger node together: the books, the raft cluster or the
// standby's part, and the HTTP interface.
//
// Promise: a node that was promoted by a failover stays a primary when it is
// started again, with everything it acknowledged since. Not promised: that a
// fenced node serves again; its data must be brought back as a standby's.
//
// # Words
//
//   - primary: takes part in a raft cluster; the leader serves
//   - standby: follows another site through the standby node beside it, without raft
//   - promotion: both books are at the failover's head and branched off; the node
//     seeds a cluster of one from them and serves
//
// # Picture
//
//	Run -> HTTP server (package server)
//	    -> primary: cluster.Run, then the journals' Run
//	    -> standby: replay, the journals' Run ... Promote -> cluster.Seed -> cluster.Run
//
// A Node runs once. Everything durable lies below Config.Dir: journal/<currency>
// and raft.
package node
