// Package encrypt keeps what lies in a bucket unreadable to whoever keeps the
// bucket. Every object is encrypted before it leaves the process, in chunks, with a
// key of its own, which is kept with it, encrypted with a key of the archive's.
//
// Promise: bytes that [Bucket] gives are those that were put under that name, and in
// that order, or there is an error of class corrupt; an object that was cut off at
// any place is noticed by whoever reads up to its end. Keys are replaced by adding
// one to the file; objects of the older ones stay readable while these are in it.
// Not promised: that names and sizes are secret; that an old version of an object is
// told from the newest one; that a whole object is told from one that was cut, by a
// reader who asks only for a range that both have.
//
// # Words
//
//   - keeper:   has the archive's keys by their ids; a key file, or package kms
//   - key file: keys by their ids, the last one is that of new objects
//   - data key: of one object, by which its chunks are encrypted
//   - chunk:    [ChunkBytes] of an object, or what is left at its end
//
// # Picture
//
//	archive -> [Bucket] -> bucket.Retry(bucket.Limit(bucket.Stall(driver)))
//
// All methods of a Bucket may be called concurrently. The bytes are in
// docs/formats/archive-object.md.
package encrypt
