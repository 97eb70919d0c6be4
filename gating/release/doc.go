// Package release is the part of a gate that is the same in every store: what
// may leave, under which epoch and within which bounds, and what the gate does at
// their edge. The journal library and the connectors of the other stores put
// their own way of letting go around it.
//
// Promise: the ceiling grants anew only while the agent on this node says that it
// holds an epoch not below the fencing one, or a stream that is open, or degraded
// on record, lost its agent; bounds are enforced unless the machine said otherwise
// at its last step; what an activity had released when it ended is still told
// after it. Not promised: that anybody asks. Whoever lets something go reads the
// clock, asks [Gate.Ceiling] and reports the release to it in one step.
//
// # Words
//
//   - activity: the time between the service's becoming active here and its end
//   - grant:    what the agent says is durable and allowed; see package local
//   - lost:     the agent went away while it held the epoch
//
// # Picture
//
//	appended, activate ----> [Gate] <---- hold, unhold, grant, fence (the agent's session)
//	                        /      \
//	        rpo.Ceiling: how far    machine.Machine: what at the edge
//
// A Gate is pure: no goroutine, clock, file or socket. It is not safe for
// concurrent use: the owner's lock is around it, and [Gate.Stepped] is called
// under that lock.
package release
