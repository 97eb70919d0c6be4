// Package dir keeps a bucket in a directory: an object is a file, and its name the
// file's path below it. It is the archive that needs no server, on a disk of its
// own or one that others mount.
//
// Promise: what package bucket asks. An object is written beside, synced, renamed
// and its directory synced before Put returns. Conditions are exact among all
// processes that use the directory through this package, because each change of a
// name holds the lock file; where the file system is a network's, as far as its
// flock reaches its other clients.
// Not promised: locks on objects. Whoever may write to the directory may remove
// files, so RetainUntil is refused as unsupported.
//
// # Files
//
//	<name>                 the object, byte for byte
//	.tidegate/lock         held while names change
//	.tidegate/tmp/<id>     an object that is being written; its writer holds a lock on
//	                       it, so one that nobody holds is what a killed writer left,
//	                       and the first Put of a later process removes it
//
// The directory itself must be there: one that is made on demand would take what
// was meant for a disk that is not mounted. Directories below it are made and never
// removed.
//
// A tag is the SHA-256 of the object's bytes, given for objects of at most
// [TaggedMax]; longer ones have none and cannot be replaced with IfMatch.
//
// All methods of a [Bucket] may be called concurrently.
package dir
