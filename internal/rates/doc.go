// Package rates obeys the operator's files: `echo 0 > DIR/ship` stops what the
// limit named ship governs, a number slows it to so much a second, and deleting
// the file lifts it. It works with every API, gate and network dead.
//
// Promise: a number in a file is obeyed within [PollEvery]; a file that is gone,
// or that holds no number, is believed once it has been found so twice running,
// because whoever writes a file empties it first. A file that cannot be used
// changes nothing: the last good value stays in force and the mistake is logged
// and shown. At the start there is no last good value, so there is no limit
// then. Every change is logged at Warn with the old and the new value and the
// file it came from. Not promised: that what was let through before the change
// has arrived anywhere.
//
// A limit is a token bucket that holds what [Burst] allows. A piece that is
// larger than that goes as soon as the bucket is full, and what follows pays:
// the average is exact, whatever the sizes. [Limiter.Wait] serves in the order
// of arrival. While there is no limit a call costs one atomic load.
//
//	operator --echo--> DIR/<name> <--poll-- Rates --atomic--> Limiter <--Wait-- hot path
//	                                          |
//	                                          +--> status, metrics, log
//
// [New] does no I/O; [Rates.Read] looks once, [Rates.Run] goes on looking. All
// methods of Rates and Limiter may be called concurrently. [Set] and [Lift] are
// durable when they return.
package rates
