package fence

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// Holder is who may write a stream in one epoch: one run of one agent. The
// uuid is drawn at every process start, because a start is a change of writer.
type Holder struct {
	Node tidegate.NodeName `json:"node"`
	Site tidegate.SiteName `json:"site"`
	UUID tidegate.HolderID `json:"uuid"`
}

func (h Holder) String() string { return fmt.Sprintf("%s/%.8s", h.Node, h.UUID) }

// Promise is what a standby node has sworn: it refuses every append, fence and
// adopt of a lower epoch, and of another holder at the same epoch. The zero
// value promises nothing.
type Promise struct {
	Epoch  tidegate.Epoch    `json:"epoch"`
	Holder tidegate.HolderID `json:"holder"`
}

func (p Promise) String() string { return fmt.Sprintf("%s/%.8s", p.Epoch, p.Holder) }

// Allows reports whether a node that swore p may obey epoch and holder: a
// higher epoch, or exactly the one promised. (I3)
func (p Promise) Allows(epoch tidegate.Epoch, holder tidegate.HolderID) bool {
	return epoch > p.Epoch || epoch == p.Epoch && (holder == p.Holder || mutate.Broken(mutate.PromiseHolder))
}

// Term is one epoch in the life of a log: batches from StartSeq on, until the
// next term begins, were sealed by Holder under Epoch.
type Term struct {
	Epoch    tidegate.Epoch    `json:"epoch"`
	StartSeq tidegate.Seq      `json:"start_seq"`
	Holder   tidegate.HolderID `json:"holder"`
}

// Member is one formatted data directory on one node. A node that lost its
// disk comes back as another member: acks of the old one never count for it.
type Member struct {
	Node        tidegate.NodeName    `json:"node"`
	Incarnation tidegate.Incarnation `json:"incarnation"`
}

func (m Member) String() string { return fmt.Sprintf("%s/%.8s", m.Node, m.Incarnation) }

// Config is the set of members whose acks count, and how many of them make a
// batch durable. Members are sorted by node name, one per node.
type Config struct {
	Members []Member `json:"members"`
	W       int      `json:"w"`
}

// Quorum returns N and W of the configuration; its R is the fence quorum.
func (c Config) Quorum() tidegate.Quorum { return tidegate.Quorum{N: len(c.Members), W: c.W} }

// MembersMax bounds the standby nodes of one stream.
const MembersMax = 15

// Validate checks 1 <= W <= N <= MembersMax and that members are sorted and
// unique by node.
func (c Config) Validate() error {
	if len(c.Members) > MembersMax {
		return fmt.Errorf("%d members: want at most %d", len(c.Members), MembersMax)
	}
	if err := c.Quorum().Validate(); err != nil {
		return err
	}
	for i, m := range c.Members {
		if i > 0 && c.Members[i-1].Node >= m.Node {
			return fmt.Errorf("members %s, %s: want sorted by node, each node once", c.Members[i-1], m)
		}
	}
	return nil
}

// Index returns the index of node in c.Members, or -1.
func (c Config) Index(node tidegate.NodeName) int {
	for i := range c.Members {
		if c.Members[i].Node == node {
			return i
		}
	}
	return -1
}

// Names reports whether c names exactly this member: node and incarnation.
func (c Config) Names(m Member) bool {
	i := c.Index(m.Node)
	return i >= 0 && c.Members[i].Incarnation == m.Incarnation
}

// Clone returns a copy that shares no memory with c.
func (c Config) Clone() Config {
	c.Members = slices.Clone(c.Members)
	return c
}

// SortMembers sorts ms by node name, the order that [Config] demands.
func SortMembers(ms []Member) {
	slices.SortFunc(ms, func(a, b Member) int {
		switch {
		case a.Node < b.Node:
			return -1
		case a.Node > b.Node:
			return 1
		}
		return 0
	})
}

// FenceRequest asks a node to swear off every epoch below Epoch.
type FenceRequest struct {
	Stream tidegate.StreamID `json:"stream"`
	Epoch  tidegate.Epoch    `json:"epoch"`
	Holder tidegate.HolderID `json:"holder"`

	// Attested: the old holder's outputs are over, or need no lease; a lease that
	// the node still owes it is not waited for.
	Attested bool `json:"attested,omitempty"`
}

// FenceReply answers a fence. Refused means that Promise is higher than what
// was asked; Leased means that the node owes the old holder a lease for that
// long yet, has promised nothing and wants to be asked again. The other fields
// are then only informative. Otherwise the promise is on disk, Durable is what
// the node has fsynced, and no batch of an older epoch will be acknowledged by
// this node again.
type FenceReply struct {
	Stream  tidegate.StreamID `json:"stream"`
	Member  Member            `json:"member"`
	Refused bool              `json:"refused,omitempty"`
	Leased  time.Duration     `json:"leased_ns,omitempty"`
	Promise Promise           `json:"promise"`
	History History           `json:"history"` // a last term that begins beyond Durable+1 was being adopted, and is not held
	Durable tidegate.LogPos   `json:"durable"`
	Commit  tidegate.Seq      `json:"commit"`          // known committed; never a reason to cut
	Limbo   bool              `json:"limbo,omitempty"` // "I do not know what I had": never counts

	Evidence Evidence `json:"evidence,omitzero"` // filled in by the shell; weakens claims, decides nothing else
}

// Evidence is what a node can tell, from the writer's beacons, of releases that
// its log up to Durable does not hold. The zero value knows nothing.
type Evidence struct {
	ReleasedKnown bool          `json:"released_known,omitempty"`
	Beyond        int64         `json:"beyond,omitempty"` // records released beyond Durable, at least; meaningful only if ReleasedKnown
	BlindKnown    bool          `json:"blind_known,omitempty"`
	Blind         time.Duration `json:"blind_ns,omitempty"` // at most this long ago everything released lay within Durable; if BlindKnown
}

// AdoptRequest asks a node to make its log equal to the chosen one up to Head
// and to open the term (Epoch, Head.Seq+1, Holder).
type AdoptRequest struct {
	Stream  tidegate.StreamID `json:"stream"`
	Epoch   tidegate.Epoch    `json:"epoch"`
	Holder  tidegate.HolderID `json:"holder"`
	History History           `json:"history"` // of the chosen log, ending before Epoch
	Head    tidegate.LogPos   `json:"head"`    // H: last batch of the chosen log
	Source  tidegate.NodeName `json:"source"`  // a node that holds the chosen log through Head
	Reason  string            `json:"reason"`  // quarantine reason of what is cut: ReasonSuperseded or ReasonDiverged
	Unclean bool              `json:"unclean,omitempty"`
}

// Reasons for which a tail goes to quarantine.
const (
	ReasonSuperseded = "superseded" // same source, next writer: the content is sealed again
	ReasonDiverged   = "diverged"   // the log went on elsewhere without this
)

// AdoptReply answers an adopt. Adopted means that the log through the asked
// head and the new term are on disk. Otherwise Promise and Why say what stood
// against it: a higher promise (fenced), or a refusal that named its cause.
type AdoptReply struct {
	Stream  tidegate.StreamID `json:"stream"`
	Member  Member            `json:"member"`
	Adopted bool              `json:"adopted"`
	Epoch   tidegate.Epoch    `json:"epoch"`
	Holder  tidegate.HolderID `json:"holder"`
	Promise Promise           `json:"promise"`
	Durable tidegate.LogPos   `json:"durable"`
	Class   tidegate.Class    `json:"class,omitempty"` // of the refusal: fenced, transient, refused, corrupt
	Why     string            `json:"why,omitempty"`
}

// PromoteRequest tells the target node that Epoch is active with Head: its
// warm state may go up to Head and its service may open.
type PromoteRequest struct {
	Stream tidegate.StreamID `json:"stream"`
	Epoch  tidegate.Epoch    `json:"epoch"`
	Holder tidegate.HolderID `json:"holder"`
	Head   tidegate.LogPos   `json:"head"`
}

// PromoteReply answers a promote. Accepted means that the node may apply up to
// the head; the shell reports separately when that is done.
type PromoteReply struct {
	Accepted bool           `json:"accepted"`
	Class    tidegate.Class `json:"class,omitempty"`
	Why      string         `json:"why,omitempty"`
}

// LeaseRequest asks a node for a lease: its word to promise nobody else for TTL.
// The writer's session carries it.
type LeaseRequest struct {
	Stream tidegate.StreamID `json:"stream"`
	Epoch  tidegate.Epoch    `json:"epoch"`
	Holder tidegate.HolderID `json:"holder"`
	TTL    time.Duration     `json:"ttl_ns"` // at most LeaseTTLMax
}

// LeaseTTLMax bounds a node lease: a failover without an attestation waits for it.
const LeaseTTLMax = time.Minute

// LeaseReply answers a lease request. Granted: until Until, on the node's boot
// clock, the node makes no promise to another holder, whatever happens to it.
// The holder counts the same span from before it asked, on its own boot clock,
// less a margin for the drift of both. Otherwise Why says what stood against it.
type LeaseReply struct {
	Member  Member           `json:"member"`
	Epoch   tidegate.Epoch   `json:"epoch"`
	Granted bool             `json:"granted"`
	TTL     time.Duration    `json:"ttl_ns"`
	Until   tidegate.Instant `json:"until"`
	Why     string           `json:"why,omitempty"`
}

// Ack is a node's own statement of what it has; a relay passes it on unchanged.
// Only a [Node] makes one. Durable is fsynced, Chain is the chain at Durable.
//
// Invariant: Durable <= Stored <= Received.
type Ack struct {
	Node        tidegate.NodeName    `json:"node"`
	Incarnation tidegate.Incarnation `json:"incarnation"`
	Epoch       tidegate.Epoch       `json:"epoch"` // the epoch the node has adopted
	Received    tidegate.Seq         `json:"received"`
	Durable     tidegate.Seq         `json:"durable"`
	Chain       tidegate.Chain       `json:"chain"`
	// Stored is fsynced too, and counts for nothing beyond Durable: the node could not
	// rebuild a state from it yet, because it lacks a base, or log that goes with it.
	Stored  tidegate.Seq `json:"stored,omitempty"`
	Applied tidegate.Seq `json:"applied"` // filled in by the shell; information only
	// AppliedAt is the end of what the warm copy beside the node has applied, in the
	// source's own log; 0 unless it is proven to follow the log of this epoch. Like
	// Applied, it is not the core's.
	AppliedAt tidegate.Position `json:"applied_at,omitempty"`
	Stamp     uint64            `json:"stamp"` // grows over the whole life of an incarnation: tells a late ack from a log that went back
}

// NodeMeta is what a standby node keeps on disk for one stream beside the log.
type NodeMeta struct {
	Version     int                  `json:"version"` // NodeMetaVersion
	Stream      tidegate.StreamID    `json:"stream"`
	Node        tidegate.NodeName    `json:"node"`
	Incarnation tidegate.Incarnation `json:"incarnation"`
	Limbo       bool                 `json:"limbo"`      // does not know what it once acknowledged
	EpochRead   bool                 `json:"epoch_read"` // the promise covers a linearizable read of the epoch record made after the loss
	Promise     Promise              `json:"promise"`
	History     History              `json:"history"`
	Starts      uint32               `json:"starts"` // process starts of this incarnation; high 24 bits of Ack.Stamp

	// GivingUp is the promise under which the log is being cut by an unclean adopt. It
	// is on disk before the cut, and goes when a term is opened: a node that crashed
	// in between does not pass for one that never had more.
	GivingUp Promise `json:"giving_up,omitzero"`

	// LeaseTTL is the longest lease granted to LeaseHolder, LeaseHolder the last
	// one who was granted any: after a restart that lease is taken to run for its
	// full length from the start.
	LeaseTTL    time.Duration     `json:"lease_ttl_ns,omitempty"`
	LeaseHolder tidegate.HolderID `json:"lease_holder,omitzero"`
}

// NodeMetaVersion is the version of the JSON form of [NodeMeta].
const NodeMetaVersion = 1

// FormatMeta returns the metadata of a stream directory that has just been made.
// It starts in limbo; the epoch record frees it at once if it already names the
// incarnation (a new stream), also one that has had writers meanwhile, and otherwise
// only after it has caught up.
func FormatMeta(stream tidegate.StreamID, m Member) NodeMeta {
	return NodeMeta{Version: NodeMetaVersion, Stream: stream, Node: m.Node, Incarnation: m.Incarnation, Limbo: true}
}

// Damaged returns the metadata of a node that may have lost data it once
// acknowledged (failed fsync, corruption inside the log): promise and history
// stay, the incarnation is a new one, and the node is in limbo. What is left of
// the log must be readable; a log that is shorter than the start of its last
// term is completed by the next adopt.
func (m NodeMeta) Damaged(fresh tidegate.Incarnation) NodeMeta {
	m.Incarnation, m.Limbo, m.Starts = fresh, true, 0
	m.History = m.History.Clone()
	return m
}

// Member returns the member that m describes.
func (m NodeMeta) Member() Member { return Member{m.Node, m.Incarnation} }

// Marshal returns the bytes of the metadata file.
func (m NodeMeta) Marshal() ([]byte, error) { return json.MarshalIndent(m, "", "  ") }

// ParseNodeMeta reads what Marshal wrote; it refuses other versions.
func ParseNodeMeta(b []byte) (NodeMeta, error) {
	var m NodeMeta
	if err := json.Unmarshal(b, &m); err != nil {
		return NodeMeta{}, fmt.Errorf("parse node meta: %w", err)
	}
	if m.Version != NodeMetaVersion {
		return NodeMeta{}, fmt.Errorf("parse node meta: version %d: %w", m.Version, tidegate.ErrUnsupported)
	}
	if m.Incarnation.IsZero() || m.Node == "" {
		return NodeMeta{}, fmt.Errorf("parse node meta: node %q without incarnation", m.Node)
	}
	if err := m.History.Validate(); err != nil {
		return NodeMeta{}, fmt.Errorf("parse node meta: %w", err)
	}
	return m, nil
}

// LossKind says how much a loss statement claims.
type LossKind string

// The kinds of loss statements, from strongest to weakest.
const (
	LossZero    LossKind = "zero"    // proven: nothing acknowledged is missing
	LossAtMost  LossKind = "at-most" // proven bound
	LossUnknown LossKind = "unknown" // no upper bound can be given
)

// LossStatement is what a failover may claim about acknowledged records that
// the new writer does not have. It is never more optimistic than the gate's
// record at F1 and the fence replies allow. (I23)
type LossStatement struct {
	Kind    LossKind            `json:"kind"`
	Bounds  tidegate.Bounds     `json:"bounds"`             // upper bounds when Kind is at-most, zero for zero, ignored for unknown
	AtLeast int64               `json:"at_least"`           // records known to have been released beyond H; a lower bound, 0 when none is known
	Why     string              `json:"why"`                // the fact that decided the kind
	Unclean bool                `json:"unclean,omitempty"`  // promoted with fewer than R replies
	Missing []tidegate.NodeName `json:"missing,omitempty"`  // members that did not answer the fence, of an unclean one
	Actual  *MeasuredLoss       `json:"actual,omitempty"`   // once the old journal has been recovered
	Blind   time.Duration       `json:"blind_ns,omitempty"` // upper bound on the span of acknowledgements that may be missing; 0 when unknown, or proven zero
}

// MeasuredLoss is what was found beyond the recovered head on the old primary.
type MeasuredLoss struct {
	Records  int64         `json:"records"`
	Bytes    int64         `json:"bytes"`
	Released int64         `json:"released"` // of the records, those whose outputs had been let go
	Window   time.Duration `json:"window"`
}
