// Package archive is what lies in a bucket: streams with the segments of their
// sealed batches, byte for byte, and mirrors of the bases from which a state is
// rebuilt. A bucket is enough to rebuild a machine.
//
// Promise: what is in a segment was committed and durable on the node that put it
// there, and is what the writer sealed; nothing that lies in an archive is ever
// written over; a base that is listed is whole. Not promised: that there is one
// archivist at a time. Equal ranges have equal bytes, segments may overlap, and a
// branch that a failover left behind stands beside the one that followed.
//
// # Words
//
//   - segment:   an object of whole sealed batches, back to back
//   - archivist: the node that uploads a stream; a hint that spares work, and no more
//   - mirror:    the sealed packs, indexes and manifests of one node's base store
//   - branch:    segments whose chains meet; the newest one is the stream
//   - hole:      batches of a branch that no segment has
//   - scar:      where one generation of a branch ends and the next begins; kept for ever
//
// # Picture
//
//	delta log, up to commit -> segments --\
//	base store -> packs, then manifests ---+-> bucket -> [Reader] -> [Stream] -> restore
//
// A [Stream] is a stream's newest branch: [Stream.Batches] in order and verified,
// places by seq, position or time, [Stream.Bases] out of the mirrors, and the
// [Window] of what can be restored. Nothing of a bucket is believed before it was
// verified.
//
// A [Writer] belongs to a standby node; it decides by [History], [Coverage] and
// [Policy], which know no clock and no bucket. The names of the objects and what is in them is docs/formats/archive.md.
package archive
