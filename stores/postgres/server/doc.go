// Package server runs a real PostgreSQL server that belongs to a node: restored
// from a base, following a log that this node hands it, promoted when the node's
// site takes over, and made a follower again afterwards.
//
// Promise: a server started to follow never begins a history of its own unless
// [Server.Promote] is called; what it needs to be safe as a follower and as a
// primary is in its configuration before its first start, so that promotion
// changes no setting and starts no process; a base that was restored in part is
// never started; data is moved aside, never deleted. Not promised: that the base
// and the log are good (packages snapshot and wal check them before), and that
// the server's process ends with this one: a promoted server outlives the daemon,
// and the next daemon finds it again.
//
// # Words
//
//   - home:     the directory of one server: data, tablespaces, run (its socket),
//     log and restoring (a base on its way in)
//   - account:  the user that the server's processes run as
//   - upstream: the Unix socket from which a follower takes its log
//   - purpose:  what a server is started for: to follow, or to serve
//   - finding:  a line of the server's log, or its state, that somebody should
//     know of; typed
//
// # Picture
//
//	snapshot -> [Server.Restore] -> data/ -> [Server.Start] -> postgres <- upstream
//	                                             |
//	            [Server.State], [Server.WaitReplayed], [Server.Promote] by SQL
//	            [Server.Run] -> keeps it up, reads its log -> [Finding]
//
// Methods of a [Server] may be called concurrently; those that start, stop,
// restore or promote take turns. One process at a time may use a home. Restoring
// syncs every file and directory before the base gets its name.
package server
