// Package walsender is the sending end of PostgreSQL's streaming replication: a
// hot standby, pg_receivewal or any other physical receiver connects to it by a
// Unix socket as it would to a primary, and gets write-ahead log out of a [Log]
// that somebody else keeps. There is no PostgreSQL server behind it.
//
// Promise: a receiver is sent exactly the bytes that its [Reader] gave, in
// order, and no message ends inside a record unless at a page boundary, which
// receivers rely on (walsender.c, XLogSendPhysical). What cannot be sent whole
// and in order is refused in PostgreSQL's own words and SQLSTATE. Not promised:
// that the bytes are good log (package wal checks before they come here), and
// that a slot keeps anything: what the Log still has is all there is.
//
// # Words
//
//   - receiver: the client, a WAL receiver: a standby's walreceiver, or a program like it
//   - session:  one connection of a receiver, whichever commands it gives
//   - range:    what one [Reader.Next] returns: consecutive bytes that end at a
//     record's end
//   - status:   what a receiver says of itself: written, flushed, applied
//   - feedback: the oldest transactions a hot standby's queries still look at
//
// # Picture
//
//	               IDENTIFY_SYSTEM, SHOW, TIMELINE_HISTORY, slots
//	hot standby -> START_REPLICATION ------------> [Server] -> [Log.Open]
//	            <- 'w' log, 'k' keepalive --------    |     <- [Reader.Next]
//	            -> 'r' status, 'h' feedback -------->  \
//	                                                    [Events]
//
// A [Server] serves any number of receivers up to its limit, each by goroutines
// of its own that [Server.Run] ends before it returns; its methods may be called
// concurrently. A Log is used concurrently, a Reader by one goroutine. Nothing
// here writes a file but the socket and the lock beside it. There is no password
// and no encryption: whoever may enter the socket's directory may read all log,
// so Run refuses a directory that others than its owner and group can enter.
// The protocol is the chapter "Streaming Replication Protocol" of PostgreSQL's
// manual.
package walsender
