// Package worker carries out what schedules of drills want: it takes the drill that is due
// from a gate, has it run, says how far it is, and says how it ended.
//
// Promise: one drill at a time; what the gate calls off, or has given to another worker,
// is ended; gates that are away neither end a drill nor the worker, and are told its report
// and its end for as long as they may take to come back. Not promised: that every end is
// heard of. Where no gate answers any more, the drill lapses there, and its report, which is
// signed and kept by then, is what counts.
//
// # Words
//
//   - job:   a service that this worker rehearses, and how
//   - claim: a drill that a gate has given to this worker alone
//
// # Picture
//
//	gates <- take, report, end -- [Worker] -- [Job.Begin] --> drill: sandbox, report, evidence
//
// [Worker.Run] owns every goroutine that it starts. Nothing is written here.
package worker
