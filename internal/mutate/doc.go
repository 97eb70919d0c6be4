// Package mutate names the rules of the protocol whose absence the simulator and
// the scripted counterexamples must notice.
//
// Promise: in a build without the tag `mutate`, [Broken] is the constant false;
// its branches vanish, and no configuration, environment or message reaches
// them. Not promised: that a broken rule does harm in each run, or alone.
//
// # Words
//
//   - rule:     one sentence that some line of code keeps
//   - mutation: a build and a run in which that line does not
//
// # Picture
//
//	code that keeps rule r:   if !ok && !mutate.Broken(mutate.EpochCheck) { refuse }
//	go test -tags mutate:     mutate.Break(mutate.EpochCheck); run; want a violation
//
// A rule is one name here and one or a few calls of Broken, at the lines where
// it holds. With the tag, Break must not be called while a core is running:
// there is no lock, so that cores under test run as fast as those that ship.
package mutate
