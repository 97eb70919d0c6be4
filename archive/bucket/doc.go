// Package bucket is how the archive keeps objects: named bytes that are written
// whole, read in ranges, listed in order and removed. [Bucket] is the interface;
// the drivers are in the folders below, and package open makes one out of a
// configuration.
//
// Promise: an object for which [Bucket.Put] returned nil is durable as far as the
// place that keeps it says so, and is there whole or not at all. Of any number of
// writers with [PutOptions].IfAbsent, in whatever processes, one wins. A body that
// was cut short is an error, on the way in and on the way out.
// Not promised: that a server keeps a condition because it took the request; what
// it keeps is asked for with [Probe]. That what is read is what was meant: whoever
// reads objects checks what is in them.
//
// # Words
//
//   - object: named bytes in a bucket; replaced whole, never changed in part
//   - name:   of an object: see [ValidName]
//   - tag:    what a server gives an object's bytes, for [PutOptions].IfMatch
//   - driver: a Bucket that speaks with a place: dir, s3 or minio
//
// # Picture
//
//	archive -> Bucket -> driver -> directory or server
//
// All methods of a Bucket may be called concurrently. Errors say what to do by
// their class: transient is worth another try, misuse wants an operator and has a
// hint, refused is a rule that said no, corrupt is bytes that are not what was
// written.
package bucket
