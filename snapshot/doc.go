// Package snapshot is the format of bases: a set of files as of one moment, cut
// into pages and extents that are named by their content, so that what two bases
// have in common is stored, and crosses a link, once.
//
// Promise: what [Reader.Copy] delivers has the names that the manifest lists, or
// it is an error; a base that [Store.Bases] lists was whole, synced and read back
// before it was listed; a transfer that was cut off goes on where it was, because
// what arrived is found by its name; nothing goes but what a [Sweep] finds that no
// listed base needs, and nobody reads, gives or takes in.
// Not promised: that the files are consistent with each other; the log that
// follows a base makes them so, and where that log begins stands in the manifest.
//
// # Words
//
//   - base:     the files from which, with the log that follows, a state is rebuilt
//   - page:     [PageBytes] of a file at a multiple of that; the unit that is shared
//   - stream:   a file that is cut into extents where its content says
//   - extent:   up to [ExtentPages] pages in a row; the unit that is offered and found
//   - place:    where in which file an extent was, as a number; a hint and no more
//   - pack:     a file of records, each an extent with the pages that were new
//   - manifest: the list of a base's files and their extents, named by its content
//   - sink:     whoever takes extents: a [Store], or a session to one
//   - sweep:    the removal of bases, and of what no base needs any more
//
// # Picture
//
//	source's files -> [Builder] -> Sink.Offer: which pages are missing?
//	                     |             Sink.Put: those pages, compressed
//	                     +-> manifest -> Sink.Commit: read back, then listed
//	[Store] -> [Reader] -> files
//
// A [Store] may be used concurrently; one process at a time writes to its
// directory, any number may read. A [Builder] belongs to one goroutine and hashes
// on several. The bytes are in docs/formats/snapshot.md.
package snapshot
