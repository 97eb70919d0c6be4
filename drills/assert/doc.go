// Package assert holds service-level assertions against what was seen of a live service:
// `exposure_age_p99 < 2s for 1m`, `durable_nodes >= 2`.
//
// Promise: an assertion holds only where every look that it speaks of knew the value; what
// is unknown never counts as holding, nor as failing. Not promised: what happens between
// two looks.
//
// # Words
//
//   - metric: a name, and what it counts: time, things, or bytes
//   - look:   what was known of all metrics at one moment
//   - window: how much of the past an assertion is held against at once
//   - watch:  an assertion while it is looked at, and what came of it
//
// # Picture
//
//	text --> [Parse] --> [Assertion] --> [Watch] <-- looks: [Values], moment
//	                                        '--> evidence.Check; why to call off
//
// All of it is pure. A Watch belongs to one goroutine at a time; assertions may be shared.
package assert
