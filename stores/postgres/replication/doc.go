// Package replication is the client of PostgreSQL's replication protocol: it
// receives a server's write-ahead log byte by byte, says how far the log is safe
// elsewhere, takes base backups, and asks the server what it must know. Servers
// from version 15; primaries and standbys alike.
//
// Promise: the bytes that [Stream.Receive] gives are consecutive from the place
// that was asked for, or it gives an error; a stream that [Conn.Start] returned
// does stream: the refusals that a server utters only after it has agreed are
// that call's error. A server that falls silent is noticed within
// [Config.SilenceMax], although an idle server says nothing by itself. Of a
// backup, every file is compared with the server's manifest before
// [Conn.BaseBackup] returns nil. A connection to another system than the one
// that was asked for is refused. A refusal is an error of this package's own
// ([ErrSlotMissing] and the rest) with a class and a hint, told apart by SQLSTATE
// and never by words, which servers translate.
// Not promised: that the bytes are good log (package wal parses it), or that they
// are the same history as last time (compare lineages, and the bytes before the
// end: a primary that was set back writes another one under the same name).
//
// # Words
//
//   - slot:      what makes the server keep its log from a place on, and for whom
//   - status:    the three places that a receiver tells: written, flushed, applied.
//     What a commit on the server waits for is one of them (synchronous_commit);
//     the slot follows flushed alone
//   - keepalive: a message without log; it tells how far the server's log goes
//   - redo:      where replay of a base begins; the log must be kept from the start
//     of the segment that holds it
//
// # Picture
//
//	[Connect] -> [Conn] -> Identify, Lineage, slots ---> [Conn.Start] -> [Stream]
//	                \                                     Receive <- log, keepalives
//	                 \-> [Conn.BaseBackup] -> [Sink]      Status, Feedback -> server
//	[ConnectSQL] -> [SQL]: settings, control data, slots, senders
//
// A Conn and an SQL are for one goroutine at a time. Of a Stream, one goroutine
// receives while others send status; Close may be called at any time, by anyone,
// and ends a Receive that waits. Nothing is written to disk.
//
// The protocol is "Streaming Replication Protocol" of PostgreSQL's manual; what it
// leaves out is in walsender.c and basebackup_copy.c of the server's source.
package replication
