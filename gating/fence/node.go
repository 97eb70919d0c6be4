package fence

import "github.com/tidegate/tidegate"

// Node is a standby node's part of one stream.
type Node struct {
	meta NodeMeta
	view LogView
	end  tidegate.LogPos
}

// NewNode starts a node's stream from its metadata and the durable end of its
// log. The effects (a Persist of the start counter) must be carried out; no ack
// is made before.
func NewNode(meta NodeMeta, end tidegate.LogPos, view LogView) (*Node, []NodeEffect) {
	return &Node{meta: meta, view: view, end: end}, nil
}

// Step takes one event and returns what must be done, in order.
func (n *Node) Step(ev NodeEvent) []NodeEffect { return nil }

// CheckAppend reports whether a batch sealed under the epoch sealed may be
// appended for a session attached as (epoch, holder): nil, or an error wrapping
// [tidegate.ErrFenced] (a higher promise: the session is over for good) or
// [ErrNotAdopted] (try again later). It allocates nothing.
func (n *Node) CheckAppend(epoch tidegate.Epoch, holder tidegate.HolderID, sealed tidegate.Epoch) error {
	return nil
}

// Received tells that the log now ends at end, fsynced or not.
func (n *Node) Received(end tidegate.LogPos) {}

// Durable tells that the log is fsynced through end and returns the ack to
// send; ok is false when nobody may count it. It allocates nothing.
func (n *Node) Durable(end tidegate.LogPos) (ack Ack, ok bool) { return Ack{}, false }

// Ack returns the current ack, for a session that has just attached.
func (n *Node) Ack() (ack Ack, ok bool) { return Ack{}, false }

// Commit tells what the holder of epoch has committed (its D).
func (n *Node) Commit(epoch tidegate.Epoch, holder tidegate.HolderID, seq tidegate.Seq) {}

// ApplyTo returns the highest seq that may be applied to the warm copy. (I24)
func (n *Node) ApplyTo() tidegate.Seq { return 0 }

// Meta returns the metadata as it stands on disk. The history must not be changed.
func (n *Node) Meta() NodeMeta { return n.meta }

// Promise returns the promise that the node enforces.
func (n *Node) Promise() Promise { return n.meta.Promise }

// Adopted returns the term that the log has adopted.
func (n *Node) Adopted() Term { return n.meta.History.Last() }

// Limbo reports whether the node does not know what it once acknowledged.
func (n *Node) Limbo() bool { return n.meta.Limbo }
