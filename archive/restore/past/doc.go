// Package past remembers how long this machine's restores and replays took, and says by
// that how long the next one will.
//
// Promise: a prediction rests on what was measured on this machine, of the same archive
// and kind of store or, of a replay, the same stream; where nothing like it was, there is
// none. Not promised: that the machine and the archive are as they were.
//
// # Words
//
//   - recovery: a restore or replay that came to its end
//   - part:     what of it is timed by itself
//
// # Picture
//
//	restore, replay -> [Keep] -> recoveries.json -> [Read] -> [Recoveries.Predict]
//
// [Recoveries.Predict] is pure. Keep writes durably, and one process at a time; what the
// file looks like is docs/operating/restore.md.
package past
