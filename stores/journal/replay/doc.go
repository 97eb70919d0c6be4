// Package replay feeds a range of an archived journal to a service in a sandbox, and
// compares the digests of the service's state with those on record.
//
// Promise: the service is fed exactly the bytes that the source wrote, verified, in
// their order, and nothing beyond the target; its state is called the same as the
// recorded one only where the service itself said a digest, at that very place. The
// archive is only read, and nothing else is reached. Not promised: that what the
// service tells the outside world while it follows does no harm; a sandbox is the
// operator's to build.
//
// # Words
//
//   - mark:    a place where the digest of the service's state is on record: a base, a
//     handover batch, or an operator's word
//   - since:   the source time from which on records are fed at the pace of the source;
//     what lies before it is fed as fast as it goes
//   - verdict: what the marks say
//
// # Picture
//
//	archive.Stream -> [Make] -> [Plan] -> [Replay.Run] -- local socket --> the service's journal library
//
// A replay that stays ([Config].Stay) is fed one range after the other in the same
// session, and can promote the service in the end: it is what a drill rehearses with.
//
// [Replay.Run] plays the standby node: the service is started as one that follows, with
// its run folder in a scratch directory. One Plan per stream; Run owns every goroutine
// that it starts, [Replay.Progress] may be called at any time, the other methods beside
// Run by one goroutine. Nothing is written but the sockets.
package replay
