// Package evidence is the record of a drill and its proof: a report that is signed as
// it is written, follows the one before it, and can be checked by anybody who has the
// public key, without Tidegate.
//
// Promise: a report that [Store.Append] has returned nil for is durable as far as its
// bucket is, and no other report has its number. [Verify] notices every byte of a
// report that was changed, a signature of a key that is not trusted, a report that is
// missing or stands elsewhere, a chain that was forked, and, where a hash of it was
// kept outside, one whose end was cut off. What is not known is null, and never 0.
// Not promised: that what a report says is true. Whoever has the key signs what it
// likes; the checks of the drill itself are what stands against that.
//
// # Words
//
//   - report:   what one drill did and found, as JSON; the bytes that are signed
//   - envelope: those bytes with their signatures, as DSSE writes them
//   - chain:    the reports of one service, each with the hash of the one before it
//   - head:     the hash of the newest report; noted outside, it proves all before it
//   - key id:   SHA-256 of a public key in its DER form (SubjectPublicKeyInfo)
//
// # Picture
//
//	drill -> [Report] -> [Store.Append]: number, previous -> Ed25519 -> bucket, if absent
//	                                                                       |
//	auditor <- HTML, JUnit, JSON <- [Open] <- [Verify] <- envelopes <------+
//
// Everything here may be used concurrently, also by several processes on one bucket:
// of two that append at once the second goes on behind the first. The bytes are
// docs/formats/evidence.md; docs/verify-evidence.py checks them without this package.
package evidence
