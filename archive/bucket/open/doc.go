// Package open makes a bucket out of the block `archive` of a configuration by
// whichever driver that names. It links every one of them; a binary that is to stay
// small uses package place with those that it needs.
//
//	Config -> [Open] -> bucket.Bucket
//
// The functions keep no state and may be called concurrently.
package open
