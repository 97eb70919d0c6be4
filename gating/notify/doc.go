// Package notify tells others what happens to a cluster: it hands audit entries
// to webhooks and to programs.
//
// A [Receiver] gets one entry at a time, in the order in which the registry
// committed them, and says whether it took it. Keeping the order, repeating what
// was not taken and remembering how far a receiver has come are the business of
// the caller, package gating, which does so while its gate leads. Between a
// delivery and the record of it a gate may be killed: receivers get every entry
// at least once, and tell repetitions by the entry's id.
//
// # Words
//
//   - receiver: one webhook or program, by its configured name
//   - payload:  an audit entry as JSON; docs/operating/notifications.md has its fields
//
// # Picture
//
//	audit trail (etcd) --> gating, leading --> [Receiver.Deliver] --> webhook: HTTPS POST
//	                            |                               +--> exec: JSON on standard input
//	                            +--> cursor (etcd)
//
// Receivers may be used concurrently. Nothing is written to disk.
package notify
