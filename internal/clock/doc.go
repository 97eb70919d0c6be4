// Package clock reads the two clocks the product uses: boot time, which every
// deadline and age on one machine is computed from, and wall time, which is
// only ever stored, shown, or compared with an error bound.
//
// Boot time advances through suspend and never steps, so a machine that was
// frozen knows how long. Timers are the standard library's: tests put them
// under testing/synctest and hand the code a [Fake].
//
// All clocks may be used concurrently.
package clock
