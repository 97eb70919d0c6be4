// Package rules decides whether a change of role may begin: gate G7.
//
// It promises three things. Evaluate is total: every rule that applies to an
// action gets a verdict, whatever the facts. It fails closed: a fact that is not
// known never lets a rule hold, so that taking facts away can only make it
// refuse more. And nothing is hidden: a verdict carries the evidence it looked
// at, and says how, if at all, an operator may go on against it. It does not
// promise that what held still holds a moment later: what must be true at the
// moment of the change is checked again by the plan itself, under
// compare-and-swap (package fence).
//
// # Words
//
//   - action:   what is asked for: failover, takeover, switchover, failback, auto
//   - rule:     one named condition; which action needs which is the table [Rules]
//   - fact:     what somebody collected; a nil pointer is a fact nobody knows
//   - verdict:  a rule's answer about a service, one of its streams
//   - override: an operator's named, reasoned and expiring word against one rule
//
// # Picture
//
//	gating (world, registry) --Facts--> [Evaluate] --[]Verdict--> plan, operator, detector
//	internal/sim ------------Facts-----^
//
// Everything here is pure and may be called concurrently; values given are not
// kept. The table in words, for operators, is docs/operating/rules.md, which a
// test prints from this package.
package rules
