// Package judge decides what a drill has shown: its verdict, whether a phase became
// slower than it used to be, and what a row of passes proves.
//
// Everything here is pure: no goroutine, clock, file or socket, and every input gets an
// answer. What was not measured is nil and is never taken for 0: it makes a verdict
// partial, and is compared with nothing. Not promised: that a phase which was called
// steady is so. How small a change is found, and how often there is a false alarm, is
// measured by TestComputed, and stands in docs/ARCHITECTURE.md.
//
// # Words
//
//   - stratum: service, level, scenario, mode and class of backlog; only runs of one
//     stratum are compared
//   - newest: the last runs of a stratum, with the one that is judged
//   - baseline: the runs before those; outliers stay in
//   - effect: what a phase must have become slower by to be called slower
//   - miss: a run that failed, or whose recovery took longer than is allowed today
//
// # Picture
//
//	run, runs before it -> [Compare] --+
//	checks, objectives ----------------+-> [Judge] -> [Verdict], exit code, [Proof]
//	runs before it -> [Summarise] -> a history, for people
//
// All functions may be called concurrently. Why ranks, and what they cost:
// docs/ARCHITECTURE.md, "A phase is slower when its ranks say so".
package judge
