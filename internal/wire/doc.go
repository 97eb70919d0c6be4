// Package wire frames messages on a byte stream and encodes their fields.
//
// Promise: a [Reader] returns whole frames of at most its limit or an error,
// whatever the peer sends; a [Decoder] never reads past its input and accepts
// no trailing byte. Not promised: integrity (TLS or a local socket gives that,
// and sealed batches carry their own checksums), or any meaning of a type.
//
// # Words
//
//   - frame: an 8-byte header and a body
//   - body:  the encoded fields of one message, or opaque bytes
//
// # Picture
//
//	+-------------------+--------+---------------+----------------+
//	| body length (u32) | type   | reserved 0 x3 | body           |
//	+-------------------+--------+---------------+----------------+
//
// All numbers are little-endian. A [Writer] may be used concurrently; a
// [Reader] and a [Decoder] belong to one goroutine.
package wire
