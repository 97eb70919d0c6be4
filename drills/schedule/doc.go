// Package schedule decides when a drill of a service is due: cron expressions with time
// zones, jitter, blocked windows and dates, and what becomes of one that was missed.
//
// Promise: it is pure. The same policy, state, facts and time give the same decision, on
// every gate, so that a new leader goes on where the last one was; an occurrence is begun
// by one decision only as long as the caller writes the state down by compare-and-swap.
// Not promised: that the caller's clock is right. One that jumps ahead makes drills early
// and none twice; one that was far ahead and is set back costs the occurrence at hand.
//
// # Words
//
//   - policy:     when an operator wants drills of a service; [Default] where none says
//   - timetable:  a policy that was read and found good
//   - occurrence: a time that the cron expression names, in the policy's zone
//   - jitter:     what is added to an occurrence, by service and occurrence, always the same
//   - due:        occurrence and jitter; the drill is begun from then on
//   - grace:      for so long after it was due an occurrence is still begun
//   - missed:     its grace is over, and nobody has begun it
//   - overdue:    an occurrence was missed, and no drill has run since it was due
//
// # Daylight saving
//
// An occurrence is a time on the wall. Where the clock is put forward over it, it comes
// right after that, once for all that were left out; where the clock is put back, it comes
// the first time. The cron library is asked in UTC, where no clock is ever put.
//
// # Picture
//
//	operator -- [Policy] --> [New] --> [Timetable]
//	registry -- [State] ----------------> |
//	gate ------ [Facts], now -----------> [Timetable.Decide] --> [Decision]: begin, or why not; next; overdue
//
// A Timetable may be used concurrently.
package schedule
