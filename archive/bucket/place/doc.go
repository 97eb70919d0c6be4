// Package place is what the block `archive` of a configuration says, and what every
// archive wants around the driver that speaks with the place. It links the driver of
// directories only: those of servers are handed to [Open], so that a binary carries
// the ones that it uses. Package open hands over all of them.
//
//	Config + drivers -> [Open] -> bucket.Bucket
//
// The functions keep no state and may be called concurrently.
package place
