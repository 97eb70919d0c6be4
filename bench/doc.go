// Command bench measures what a crossing costs, beside what the machine itself
// costs, in the same minutes.
//
// Promise: real processes, real TLS, real fsync. The bench is the service: it
// writes a journal (package journal) whose agent, standby nodes and gate are the
// product's binaries, laid out by internal/lab. Every figure stands beside a
// physical limit that was measured in turns with it, and only the ratio of the
// two is judged, for a machine is never equally fast twice. Not promised: that
// figures of two runs can be compared, ratios aside.
//
// # Words
//
//   - limit: the same bytes by the same means without the product: what no
//     implementation of it could beat on this machine
//   - round: one turn of the product and one of its limit
//   - peer:  the limit's other end, a second process of this program
//
// # Picture
//
//	B1, B2   bench: journal -> agent -> standby nodes -> D -> bench
//	limit    bench: append, fdatasync -> TLS 1.3 -> peer: append, fdatasync -> bench
//	B3       bench: journal's bytes -> the example's ledger state
//	limit    bench: the same bytes added up
//	B4       as B2, with distance between the sites: sync beside open
//	B5       one record after the other while the standby node takes a snapshot, and without
//	B6, B7   live exposure while `tidegate drill run` rehearses a ledger, a PostgreSQL server, and without
//
// What is written lies in a directory of its own and is removed.
package main
