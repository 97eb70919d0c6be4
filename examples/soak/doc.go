// Soak kills processes of a whole Tidegate under load, round after round, and
// compares what clients were told with what is left.
//
// A round is a fresh lab (package internal/lab): every two to three seconds one
// process, at times two, drawn by a seeded generator, is ended with SIGKILL and
// started again. Then the machine of the writer dies, and the role moves to
// another. Then the whole primary site is lost, killed or frozen, and the DR site
// takes over. Rounds alternate between sync and bounded mode.
//
// A round holds when
//
//   - sync: every acknowledged transfer is at the DR site, exactly once
//   - bounded: no stream lost more than K records or B bytes beyond the fork, by the
//     clients' file and the lost site's own journals
//   - no sample of any agent's exposure ever passed K, B or T
//   - both sites' states at the fork have equal digests, and the books are sound
//   - every standby node's log is one chain without a gap or a repeat, equal to the others'
//   - no process ended by itself
//
// It is a program and not a test, because kill -9 is worth most against the
// binaries that are shipped.
package main
