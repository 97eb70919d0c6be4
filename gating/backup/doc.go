// Package backup keeps copies of the registry in an archive: takes them, lists
// them, lets go of old ones, brings them back.
//
// Promise: a backup that is listed was read back whole before it was put there,
// and is checked again when it is fetched; none is ever written over. Not
// promised: that what was recorded after a backup is in it. Whoever restores
// one trusts no record of it until live writers have armed their gates.
//
//	registry -> [Take] -> bucket -> [List], [Fetch] -> registry.RestoreMember
//
// The functions keep no state and may be called concurrently, by several processes
// too. Names of objects are in docs/formats/archive.md.
package backup
