// Package detect decides whether a service's primary is down, from what several
// vantage points see of it, and whether a failover may be started by itself.
//
// Silence proves nothing: it may be ours, or the link's. So the detector
// promises to say down only when every vantage point that can be believed, at
// enough different sites, has heard nothing for at least Td on its own clock;
// one of them that hears the primary is proof that it lives. It does not promise
// that a primary it calls down is dead: fencing makes that so, not detection. A
// primary that is heard but gets nothing done is an alarm for people, never down.
//
// # Words
//
//   - vantage:  one place that observes the primary: a standby node that hears
//     its beacons, a prober that writes through the normal route, a gate that the
//     agent watches and reports to
//   - silence:  how long a vantage has been without a contact, on its own clock
//   - vote:     what a vantage's silence amounts to: alive, suspect, down, or an
//     abstention with its reason
//   - episode:  a stretch of time in which the verdict is down
//   - alarm:    something people must look at that is not down
//
// # Why a vantage abstains
//
// It has not been heard from lately; it never had a contact; it was asleep
// itself; it sees none of the other vantages, so that it, and not the primary,
// may be the one that is cut off. A detector that was asleep itself starts all
// silences anew.
//
// # Picture
//
//	standby reports --+
//	own prober -------+--Observation--> [Detector.Observe]
//	other gates ------+                 [Detector.Tick] --Verdict--> status, audit
//	rules.Evaluate ------Permission---> [Detector.Decide] --Decision--> failover
//
// A Detector is pure: no clock, no goroutine, no randomness; the same calls give
// the same answers. It is not safe for concurrent use. Instants of the detector
// and of its observers are different clocks and are never compared.
package detect
