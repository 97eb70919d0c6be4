// Package apply is the standby node's side of the PostgreSQL store: it keeps a
// real hot standby beside the node, fed from the node's log, and makes a primary
// of it when the node is told to.
//
// Promise: the server is given committed log only, in order, and on a promotion
// all of it up to H and nothing else; the history that it begins there forks off
// exactly at H, or it is stopped and never called active. Killing the server, the
// node or both, at any moment, changes nothing of that. Nothing of a data
// directory is deleted: what is in the way is moved aside. Not promised: a copy of
// the log. The node's log is the only durable one; what passes through here is in
// memory.
//
// # Words
//
//   - connector: a [Connector]; it plays the library of docs/formats/local.md
//   - warm server: the PostgreSQL server in the connector's home
//   - home: the directory with the connector's state, the data directory and
//     what was moved aside
//   - window: the stretch of log in memory, between the session and the server
//   - adopted server: one that somebody else runs as the source, in [server.Config].Data,
//     until the stream leaves it
//   - left: what was the source, and is to follow
//   - resting session: one in which the node is not to feed anything
//   - finding: what keeps the connector from its work, for people
//
// # Picture
//
//	standby --Role, Batch--> session --> window --> [walsender.Log] --> walsender
//	        <--Progress-----    ^                                          | socket
//	                            |            replayed                      v
//	        base store ----> [plan] ----> restore, start, promote --> warm server
//
// # How it plays the library
//
// A journal library keeps its own journal, so the end that it names in Hello is
// its journal's. The connector keeps nothing: the warm server keeps log in its
// own pg_wal, and says itself where it wants to go on. So:
//
//   - Hello.End is the place that the warm server has asked the walsender for,
//     always a segment's start. When it asks for another place than the session is
//     at, the session is closed and the next one begins there.
//   - While the server asks for nothing (there is none yet, it starts, it is
//     active) the session rests: Hello.Rest.
//   - Hello.Lineage is the newest lineage of the log that the server was ever
//     given anything of; it is written down before the first byte of it is given.
//   - Role{follow}.Lineage is the lineage of the batches that come after it. The
//     timelines in it are the ones that the walsender serves; where one ends, the
//     server is told so and asks for the next.
//   - LibraryProgress.Applied is the server's replay position, as it says itself on
//     the stream that feeds it, or is asked; End is the end of the batches that came
//     in this session; A, L and the gate's fields are those of a library that is not
//     active: the agent's connector speaks for those.
//   - LibraryProgress.Room is where the window's room ends. A server that does not
//     take what it is sent holds up its batches, and no role.
//   - Feedback is what its reads need of the primary's old rows, said at every change,
//     and every ten seconds while it reads log.
//   - Role{active} is the promotion. It comes when Applied has reached H. The
//     server's own timeline switch at H takes the place of the branch record.
//   - Activated is said when the server is out of recovery, its history was
//     verified to fork at H, and it has taken a transaction.
//   - Role.Source says whether a switchover ends the source beside the node: then the
//     server is stopped in order, and started again only when it goes on here.
//   - Role{follow} of a newer epoch while it was the source: it leaves. It is stopped,
//     and offers nothing: Hello is that of an empty connector, so that the next
//     Role's lineage is all the log's. With that it is made a follower ([server.Rejoin]).
//   - Rewind stands the server down: it is stopped, and a finding says why.
//
// # Concurrency and durability
//
// One goroutine, that of [Connector.Run], decides and acts on the server; the
// session, the walsender and the server's process run beside it and end before
// Run returns. Methods may be called concurrently. What was decided is in
// home/apply.json before it is done, so that a restart goes on with it.
package apply
