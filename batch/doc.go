// Package batch is the sealed batch: the unit that a writer seals once and
// whose bytes never change again, in memory, on the wire, on a standby's disk
// or in an archive.
//
// Promise: [Verify] accepts exactly the bytes that [Sealer.Seal] made, for the
// one log they were made for: any flipped bit, any cut and any other
// predecessor is an error. [Opener.Open] returns exactly the payload that was
// sealed. Not promised: anything about what the payload means.
//
// # Words
//
//   - header:  160 bytes, readable by every node, compressed or not
//   - payload: the raw bytes that were sealed; stored form: as they are shipped
//   - digest:  SHA-256/128 of the raw payload; compares copies of one log
//   - chain:   SHA-256/128 of the previous chain and the header; proves all of the log before it
//
// # Picture
//
//	agent: [Sealer.Seal] -> shipper -> standby: [Verify] -> delta log
//	                                      '-> apply: [Opener.Open] -> store
//
// Unknown kinds, codecs and flags pass [ParseHeader] and [Verify], so that an
// older node still ships and keeps them; [Opener.Open] refuses them, so that it
// never applies what it does not understand. Nothing is allocated per call once
// the buffers have grown. A [Sealer] and an [Opener] serve one goroutine; the
// functions may be called concurrently. The layout is docs/formats/batch.md.
package batch
