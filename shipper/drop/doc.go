// Package drop carries a connection through a bucket: what either end writes is put
// there as objects, and the other end reads them in order. A ship session goes over it
// as it goes over TCP, certificates and all; it is the lane of the crossing for when
// no packet gets through.
//
// Promise: a reader gets the bytes that the writer at the other end wrote, in order,
// or the connection ends with an error that says why; nothing is kept that has been
// read. Not promised: that a bucket's other users change and read nothing: that is
// TLS's to find out and to prevent, as on any wire. Nor durability: what lies in the
// bucket is on its way and no more, and counts for nothing.
//
// # Words
//
//   - drop:       the part of a bucket below [Prefix]
//   - connection: one pair of ends; it has a random id, drawn by the end that dials
//   - piece:      one object: bytes of one direction, numbered from 0; an empty one is the end
//   - up, down:   the directions: from the end that dials, and to it
//
// # Picture
//
//	agent  --Write--> pending --Put--> drop/<node>/<id>-up-<n>   --Get, Remove--> Read--> standby node
//	agent  <--Read--  <--Get, Remove-- drop/<node>/<id>-down-<n> <--Put-- pending <--Write-- standby node
//
// All methods of a [Drop] and of what it gives may be called concurrently. Goroutines
// of a connection end within twice [FarewellMax] of its Close, or when the bucket answers;
// [Drop.Wait] waits for all of them. The names are in docs/formats/drop.md.
package drop
