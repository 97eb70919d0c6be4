// Package s3api is what the drivers of S3 servers have in common: everything but
// the client library. It cuts large objects into parts, keeps conditions in both
// ways of putting, follows versions when it removes, and says of every answer of a
// server what may be done about it.
//
// Promise: what package bucket asks, as far as the server keeps it. Each request is
// made once: trying again is bucket.Retry's.
// Not promised: that a server has synced what it acknowledges; that a condition
// which it does not know makes it refuse (bucket.Probe asks).
//
//	bucket.Bucket -> [Bucket] -> [API] of package s3 or minio -> server
//
// An object that is locked is put under object lock, mode COMPLIANCE, which only a
// bucket with versions has. There, Remove removes versions, the newest first, until
// none is left: a plain delete would succeed under a lock and hide the object.
//
// All methods of a [Bucket] may be called concurrently.
package s3api
