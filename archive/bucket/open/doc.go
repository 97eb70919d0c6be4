// Package open makes a bucket out of the block `archive` of a configuration: it
// picks the driver and puts what every archive wants around it. It links every
// driver; a binary that is to stay small imports the one that it needs.
//
//	Config -> [Open] -> bucket.Bucket
//
// The functions keep no state and may be called concurrently.
package open
