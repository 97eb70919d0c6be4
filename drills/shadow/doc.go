// Package shadow is the drill of level L1: it promotes an isolated clone of a warm standby
// service, for real, and times that.
//
// Promise: what is rehearsed with is only read; the drill starts only where its identity
// and this machine let it change nothing, which is tried and not believed; nothing of the
// sandbox is left when it ends, or what is left is named; what was not measured is unknown
// in its report, never 0. Not promised: that the service's own program does no harm while
// it runs in the sandbox. It gets no credential, an environment of its own and addresses on
// the loopback; a network of its own is the operator's to build.
//
// # Words
//
//   - sandbox: a directory below the drill's own scratch directory, and the processes that
//     carry its mark in their environment
//   - clone:   base and log out of the standby node, copied into the sandbox, and the
//     service's own program, or PostgreSQL server, that follows them there
//   - twin:    a clone and its process, behind one interface for every kind of store
//   - cut:     where the clone ends: the end of what is committed when it is opened. The
//     state is compared at the live standby's newest digest, on the way there
//   - backlog: the last records before the cut, which are left for what is timed
//   - course:  the steps of a drill; those between t0 and the canary are phases
//
// # Picture
//
//	standby node -- observer, reader, base --> [Node] --> clone --> replay -- local socket --> service's program
//	     ^ status: lag, digest                   |                              clearance -- local socket --^
//	gates, node <- what must be refused ---------'                  canaries, checks -- loopback -----------^
//
// A clone is promoted under an epoch from [tidegate.EpochDrillFirst] on, which no gate
// issues and every daemon refuses: its history is never mistaken for the live one.
//
// [Drill.Run] owns every goroutine and process that it starts; [Drill.Progress] may be
// called beside it. Sandboxes are removed, evidence is written by the caller:
// docs/operating/drills.md.
package shadow
