// Package wal reads PostgreSQL's write-ahead log: positions, file names,
// timelines, and the stream of pages and records itself.
//
// Promise: what [Parser] reports as a record is whole, its CRC holds, it follows
// the record before it, and its page belongs to the system, place and timeline
// that the page says; the first byte of which that is not so is named. Nothing is
// allocated for a record. Not promised: anything about what a record does to the
// data; that two servers which call themselves one timeline have one history, which
// is what [Lineage] is for; that a server which was set back and went on is noticed
// by its records alone, which at places lie alike: compare bytes as well.
//
// # Words
//
//   - LSN:        a byte's address in the log; a tidegate.Position, value for value
//   - record end: the first multiple of 8 at or after a record's last byte
//   - torn tail:  bytes pushed beyond the last record end: part of a record
//   - padding:    what follows a switch record up to the segment's end; it means nothing
//   - timeline:   one server's way on; a promotion starts the next, at a fork
//   - lineage:    a system's id and all its forks as one text
//   - fault:      the place and kind of a byte that cannot be log
//
// # Picture
//
//	walreceiver, delta log, pg_wal --bytes--> [Parser] --+--> [Parser.End], [Parser.Tally]
//	                                                     '--> [Event]: commits, switches, checkpoints
//	IDENTIFY_SYSTEM, .history ------> [ParseHistory] --> [Lineage] --> one text in batches and roles
//	whole-record ranges ------------> [SafeCut] --> messages a walreceiver can take
//	pg_wal of an old primary -------> [Summarizer] --> what its divergent tail held
//
// No goroutine, clock, file or socket. A [Parser] and a [Summarizer] serve one
// goroutine; everything else is a value. What is relied on, and where PostgreSQL's
// source says it: docs/formats/postgres.md.
package wal
