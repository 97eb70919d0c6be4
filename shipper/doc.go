// Package shipper is the crossing: one session per (peer, stream) over TLS 1.3
// with certificates on both sides, that carries sealed batches unchanged from
// agent to standby, from standby to standby, and back for those who read.
//
// Promise: what a session delivers is what was sent, in order, or the session
// ends; why an attach or a batch was turned away crosses as a typed refusal
// that is as classifiable at the far end as at the near one; a peer that is
// silent for [Limits].IdleTimeout is given up; Close returns even when I/O
// hangs. Not promised: durability (the peer's ack says that), nor that a batch
// for which Send returned nil has left the machine.
//
// # Words
//
//   - dialer, acceptor: who opened the connection; which of them ships follows from [As]
//   - attach:  the request that binds a session to one stream, epoch and holder
//   - refusal: the acceptor's typed no
//   - credit:  bytes of batches that the receiver has room for
//   - beacon:  the writer's A, L and D, five times a second
//
// # Picture
//
//	agent   --AsWriter-->  relay  --AsRelay-->  other nodes     batches, commit, beacons
//	agent   <---acks-----  relay  <---acks----  other nodes     passed on unchanged, as is feedback
//	another agent --AsObserver--> node                          headers, commit, beacons come back
//	another node  --AsReader----> node                          whole batches come back
//
// A [Conn] and a [ServerConn] may be used by one receiving goroutine and any
// number of sending ones. Batches are neither opened nor changed here, and
// nothing is allocated per batch. The bytes are in docs/formats/ship.md.
package shipper
