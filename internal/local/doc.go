// Package local is the protocol between a service's journal library and the
// Tidegate daemon beside it, over one Unix socket per stream.
//
// Promise: a message that [Conn.Recv] returns is well formed and of a version
// that both ends named; anything else is an error and ends the connection. Not
// promised: delivery. What matters is said again after a reconnect.
//
// # Words
//
//   - library: the journal library inside the service; it dials
//   - daemon:  the agent or the standby node on the same machine; it listens
//   - grant:   what the daemon's [DaemonProgress] lets the library release
//
// # Picture
//
//	library                              daemon
//	   | Hello ------------------------->  |
//	   | <----------- Welcome or Refusal   |
//	   | Activated, Deactivated -------->  |
//	   | LibraryProgress --------------->  |  at every change, and every 200 ms
//	   | <------------------------- Role   |
//	   | <--------------- DaemonProgress   |  from the agent
//	   | <------------------------ Batch   |  from the standby node
//	   | <------ Snapshot and its parts -> |  with the standby node, whoever has one
//
// A [Conn] may be used by any number of senders and one receiver. Trust is the
// socket's mode 0660: whoever may open it may speak for the service. The bytes
// are laid down in docs/formats/local.md.
package local
