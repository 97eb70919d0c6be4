// Package cluster replicates the books over raft (hashicorp/raft) and tells the
// journal when this node leads.
//
// Promise: every node of the cluster appends the same entries at the same
// positions of its own journals; an outcome is returned by [Cluster.Submit] only
// on the node that led when the entry was applied, after its own journal was
// fsynced. A node that is behind a raft snapshot fetches the missing journal range
// from a peer before it takes the snapshot over, so that a journal never has a
// hole. Not promised: that the gate released the outcome; that is the caller's
// next step.
//
// # Words
//
//   - entry: a command as raft replicates it; its time was stamped by the leader
//   - seed:  the snapshot a promoted node begins its own one-node cluster from
//   - serving: leading, caught up, and announced to the journals as active
//
// # Picture
//
//	Submit -> raft.Apply -> committed -> machine.ApplyBatch -> book.Append (journal, state)
//	leadership gained -> barrier -> Journal.Activate        lost -> Journal.Deactivate
//	raft snapshot install -> GET /journal of a peer -> book.Fill -> book.Install
//
// A Cluster runs once; its methods may be called concurrently. raft's own log
// and snapshots lie in <dir>/raft and are fsynced by raft-boltdb.
package cluster
