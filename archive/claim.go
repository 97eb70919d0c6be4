package archive

import (
	"time"

	"github.com/tidegate/tidegate"
)

// claim decides which node uploads a stream. What it knows is one object, which
// whoever uploads renews; it is the node's own clock that counts how long that has
// not changed. Two nodes may hold it at once for a while, and do no harm.
type claim struct {
	self   Mirror
	policy Policy

	known   bool // what is in the bucket, as of readAt
	there   bool // there is such an object
	tag     string
	doc     Archivist
	readAt  tidegate.Instant
	since   tidegate.Instant // when it was first seen so
	renewed tidegate.Instant // when this node wrote it last; 0: it has not
}

// claimStep is what is to be done next.
type claimStep uint8

const (
	claimRead claimStep = iota + 1 // look at the object
	claimPut                       // write it, if it still is what was read
	claimHold                      // upload
	claimWait                      // somebody else uploads
)

// next says what is to be done.
func (c *claim) next(now tidegate.Instant) claimStep {
	switch {
	case !c.known:
		return claimRead
	case c.held(now):
		if time.Duration(now-c.renewed) < c.policy.Look {
			return claimHold
		}
		return claimPut
	case !c.there, c.mine(), c.doc.Released, time.Duration(now-c.since) >= c.policy.Lease:
		return claimPut
	case time.Duration(now-c.readAt) >= c.policy.Look:
		return claimRead
	}
	return claimWait
}

// held reports whether this node uploads.
func (c *claim) held(now tidegate.Instant) bool {
	return c.known && c.mine() && c.renewed != 0 && time.Duration(now-c.renewed) < c.policy.Lease
}

func (c *claim) mine() bool {
	return c.there && c.doc.Node == c.self.Node && c.doc.Incarnation == c.self.Incarnation && !c.doc.Released
}

// read takes what the object says; there is false: there is none.
func (c *claim) read(there bool, tag string, doc Archivist, now tidegate.Instant) {
	same := c.since != 0 && c.there == there && c.tag == tag && c.doc == doc
	c.known, c.there, c.tag, c.doc, c.readAt = true, there, tag, doc, now
	if !same {
		c.since, c.renewed = now, 0 // who wrote it last was not this node, or it is not known to have been
	}
}

// put takes that the object was written by this node.
func (c *claim) put(tag string, doc Archivist, now tidegate.Instant) {
	c.known, c.there, c.tag, c.doc = true, true, tag, doc
	c.readAt, c.since, c.renewed = now, now, now
}

// lost: it is not known any more what the object says.
func (c *claim) lost() { c.known = false }
