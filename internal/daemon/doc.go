// Package daemon is the frame of a long-running role: its logger, its metrics
// and how systemd hears of it, and the order in which it ends.
//
// Promise: [Serve] and [ServeStacked] return when ctx has ended and every part has
// stopped, and at the latest after [StopWithin]; then it says which part hangs, and the
// process must end by force, because what hangs holds a lock or a socket.
//
// # Picture
//
//	cmd -> [Serve] -> part.Run ... ; part.Ready -> systemd READY=1
//	cmd -> [ServeStacked] -> part.Run -> Ready -> next part.Run ... ; stopped last to first
//
// A role's process uses it from one goroutine. It writes no files.
package daemon
