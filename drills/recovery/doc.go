// Package recovery tells from a service's outputs how it recovered, and what
// could have been expected of it.
//
// It promises two things. A type is never claimed that is stronger than what was
// seen: what can not be decided is unknown, and a result says what is excluded
// all the same ([Result.AtBest]). And the whole vector is kept, so that a label
// can be contradicted by whoever reads it. It does not promise more than the
// outputs show: "divergent" means until the horizon, and a class that the test
// of operators did not refute may still be refuted by other inputs.
//
// # Words
//
//   - output: what leaves the service, named by the input it came of and an ordinal ([ID])
//   - before, after: outputs recorded outside both sites until the failure, and from the takeover on
//   - golden: the outputs of a failure-free re-execution of the accepted input log
//   - horizon: how long after was recorded
//   - tail: the outputs at the end of after that are those of golden, in order
//   - stale: an output of a superseded epoch that came after the takeover
//   - undone: an output of before whose input the new history does not have
//   - class: what an operator's outputs depend on; approach: what is kept of it at run time
//
// # Types, from the strongest to the weakest
//
//	precise     1 2 3 | 4 5 6     nothing lost, repeated or changed
//	repeating   1 2 3 | 2 3 4     nothing lost; what comes again is what came before
//	convergent  1 2 3 | 2'3'4     nothing lost; wrong for a while, then right
//	divergent   1 2 3 | 2'3'4'    nothing lost; wrong until the horizon
//	gap         1 2 3 |   5 6     something is missing
//
// # Picture
//
//	collector --before, after--> [Classify] --> [Result] --+
//	re-execution ---golden-------^                         v
//	[TestOperator] --class--> [Expected] --predicted--> [Compare] --> [Comparison]
//
// Everything here is pure, but for [TestOperator], which calls the operators it
// is given; functions may be called concurrently, a [Classifier] may not. For
// operators: docs/operating/recovery-types.md.
package recovery
