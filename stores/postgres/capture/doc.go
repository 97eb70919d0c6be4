// Package capture is the primary's side of the PostgreSQL store: a receiver of the
// server's log that is at the same time its synchronous standby, so that what the
// server may tell its clients is decided here.
//
// Promise: a commit that the server was told to hold back (synchronous_commit on,
// in a server that names us in synchronous_standby_names) is confirmed only when
// W standby nodes have it; one at remote_write only within the stream's bounds; a
// byte is passed on only after its record was parsed and its checksum held, and
// counted as received after that and after what this process had received before was
// found unchanged in front of it, or when it lies in the backlog of a start, for which
// nothing is confirmed before it was passed on; what the server keeps for us it keeps until it is
// durable at the other site. Whatever cannot be told apart from a fault confirms
// nothing. Not promised: that the server asks. Sessions at synchronous_commit
// off or local do not wait, nor does anybody whose wait is cancelled or outlived
// by a crash of the server.
//
// # Words
//
//   - server:   the PostgreSQL server on this node, a primary or a replica
//   - answer:   a standby status update: write, flush, apply
//   - window:   the newest bytes of the log, in memory
//   - reread:   a second connection, for what is no longer in the window
//   - overlap:  what is received again after a break, and compared with the window
//   - leak:     commits that are let go without our word for it
//   - finding:  what is wrong, for people; the one without a name keeps the connector
//     from its work
//   - guard:    who surveys the server now and then, and finds
//
// # Picture
//
//	server --log--> receive -> parse -> window -----> [Cursor] -> agent (seals, ships)
//	       <-----------+                   reread ----^
//	     write, flush, |
//	     apply, rows   |
//	            release.Gate <--- D, applied, bounds --- agent's socket
//	                          --- L, A, state ---------->
//
// # How it plays the library
//
// To the agent a [Capture] is both the [stores.Source] that it reads and, over the
// stream's socket, the library of docs/formats/local.md:
//
//   - Position is the LSN, value for value, and always a record end, so the
//     promoted standby's history forks exactly where a batch ends. Records are
//     commit records, counted from where this process began to receive; bytes are
//     LSNs. A backlog that the window cannot hold is received from near its end:
//     only the cursor that ships it reads all of it, and its commits are counted as
//     the most that it has room for.
//   - Hello.Lineage is the server's (package wal). Hello.Dir is empty: there is no
//     log here but the server's.
//   - L is the last record end received. A server sends what it has flushed only,
//     so what a library has fsynced, the connector has received.
//   - Activated: the server is out of recovery (or is a replica that is to be captured
//     from), streams to us, and all that it had
//     flushed when the connection was made has been received. What it let go
//     before that, to whom and by whose leave, nobody knows: A is unknown until D
//     has reached the place. Every new connection is a new activity, because
//     behind a break there may have been a restart, which lets go all who waited.
//   - Await is the server's own: backends wait until the answer reaches their
//     commit. write is what the ceiling allows, and is reported to it as a release
//     in the same step; flush is D; apply is how far the furthest warm server is, as
//     the agent says, within D, and does not go back on a connection; 0 while that is
//     not known. No answer goes beyond what this very connection has confirmed.
//   - Feedback is what reads on warm servers still need, node by node. With
//     [Settings].HotStandbyFeedback the server is told the oldest of it, which the
//     slot then remembers. A node of which nothing was heard for
//     [Config].FeedbackKept needs nothing any more.
//   - Role{fenced}, a handover that is recorded, the agent gone: the answer stays
//     as it was.
//   - Finding says why there is no server, or none that can be believed.
//
// # The slot, and back-pressure
//
// A physical slot keeps the log: its restart_lsn follows flush, which is D, never
// write. The receiver never stops reading: L, exposure and the edge of the bounds
// must be known most of all when nothing is shipped. So the window overwrites what
// nobody took in time, and a cursor that fell behind reads it again from the
// server, which has it, because the slot does. Memory is the window and one unit
// for each cursor.
//
// A replica that may be promoted has a slot, too: the agent beside it sees what is
// durable of its log, and that is what the slot is told. At the site that the stream
// is not written at it has none: nobody there says what need not be kept.
//
// A slot is made once a gate has said that the stream is registered, not before. It
// is dropped when the stream is removed, and when the operator's policy says that the
// server's disk comes first: then nothing is streamed, by this process or a later one,
// until a new generation is declared or the server follows another.
//
// # A server that follows
//
// It is looked at, so that its agent can compare. While another node of the site
// writes the stream it is also a spare ([stores.Spare]): with a driver that sets the
// names of one server, they are in force on it before it is promoted, as the
// stream's record says, and so its first commit waits. With [Settings.Replica] it is
// captured from as a primary is; whatever it has counts as released.
//
// # What ends a stream, and what it takes
//
//   - connection lost, server restarted: received again, from before the newest
//     record end that is old enough; the overlap is compared byte by byte.
//   - end of a timeline: followed to the next one of the server's own history. If
//     the new history leaves ours before what was received, or the log differs in
//     the overlap, or is shorter than what was received from the same server:
//     tidegate.ErrDiverged, and nothing is answered any more.
//   - the slot lost its log, or the log that is needed is gone: [ErrGeneration]. After
//     [Capture.Renew] the server is looked at as one that was never captured: a slot that
//     lost its log is made anew, and nothing below the place where it then begins is
//     ever confirmed again, because a server sets its slot back to what it is told.
//   - the server shuts down: it waits for our flush to reach its end; when the
//     other site is away it would wait for ever, so it is given [Settings.StopWait]; nothing
//     while it is fenced.
//
// # Concurrency and durability
//
// [New] does no I/O; [Capture.Run] owns every goroutine. A Capture may be used
// concurrently, a cursor by one goroutine. Written to disk, and synced before the slot
// goes, is only that it was given up ([Config.Memory]).
package capture
