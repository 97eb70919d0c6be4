package standby

import (
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/snapshot"
)

// Status is what a node knows of itself. Pointers are nil where it does not
// know: unknown is never 0.
type Status struct {
	Node        tidegate.NodeName
	Site        tidegate.SiteName
	Incarnation tidegate.Incarnation
	Streams     []StreamStatus // sorted by service and name
	FreeBytes   uint64
	TotalBytes  uint64
	Quarantined int64    // bytes in quarantine
	Full        bool     // batches are refused for want of room
	Growth      *float64 // of the logs, in bytes per second
	Rates       rates.Status
}

// StreamStatus is one stream of a [Status].
type StreamStatus struct {
	View     StreamView
	Member   fence.Member
	Promise  fence.Promise
	History  fence.History
	Received tidegate.LogPos
	Durable  tidegate.LogPos
	Commit   tidegate.Seq
	Limbo    bool
	LogFirst tidegate.Seq // oldest batch kept; 0 where the stream is not served
	LogBytes int64
	// BaseTaken is when the newest base of the log's last generation was taken, by the
	// clock of who took it; zero while none is held.
	BaseTaken  time.Time
	NewestBase int64 // bytes of that base's files; 0 while none is held
	// DurablePosition is the source's behind the newest durable batch, which is of
	// Generation; nil while there is none.
	DurablePosition *tidegate.Position
	Generation      tidegate.Generation

	BaseBytes int64             // of the packs that bases are kept in; 0 where there are none
	Bases     []snapshot.Listed // that are, or may be, of the log
	Learner   bool              // configured, and not counted by the active epoch
	// Resting: a learner at the site where the stream is written. It is not fed.
	Resting bool
	Lease   *NodeLease // granted by this node, while it runs
	// Quarantined is what lies in the stream's quarantine, in bytes, as of the
	// last look.
	Quarantined int64
	Err         string // why the stream is not served or not applied; empty if all is well
	// Findings are what the library beside the node has said of itself and of its
	// store, the gravest first.
	Findings []local.Finding

	Archive *ArchiveStatus // nil: the node has none

	Applied         *tidegate.Seq
	AppliedPosition *tidegate.Position
	ApplyLag        *int64   // records in the log that are not applied; an upper bound
	ApplyRate       *float64 // records per second that the warm service has applied while it had a backlog
	Endpoint        string   // of the service beside the node; empty while none is connected
	StateDigest     tidegate.Digest
	StateDigestAt   tidegate.Position
	HandoverApplied *fence.Handover // newest handover that the warm service has applied, with the digest it came to

	BeaconAge      *time.Duration
	BeaconHead     *tidegate.Position // L at the writer
	BeaconReleased *tidegate.Position // A at the writer
	Blind          *time.Duration     // upper bound on the time about which nothing is known here
	BeaconWall     *time.Time         // the writer's wall clock in the last beacon
	Evidence       fence.Evidence     // against the end of the log now
	Relays         map[tidegate.NodeName]string
}

// Status returns the node's state.
func (n *Standby) Status() Status {
	id := n.Identity()
	st := Status{Node: id.Node, Site: id.Site, Incarnation: id.Incarnation, Full: n.full.Load(), Growth: n.grows.Load(), Rates: n.limits.files.Status()}
	if d := n.disk.Load(); d != nil {
		st.FreeBytes, st.TotalBytes, st.Quarantined = d.free, d.total, d.quarantined
	}
	for _, s := range n.all() {
		one := s.status()
		if st.Full && one.Err == "" {
			one.Err = n.refuseFull().Error()
		}
		if d := n.disk.Load(); d != nil {
			one.Quarantined = d.perStream[s.id]
		}
		st.Streams = append(st.Streams, one)
	}
	slices.SortFunc(st.Streams, func(a, b StreamStatus) int {
		return strings.Compare(string(a.View.Service)+"/"+string(a.View.Name)+a.View.ID.String(), string(b.View.Service)+"/"+string(b.View.Name)+b.View.ID.String())
	})
	return st
}

func (s *stream) status() StreamStatus {
	archived, found := s.archiveStatus()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault != nil {
		return StreamStatus{View: s.view, Member: s.member(), Promise: s.meta.Promise, History: s.meta.History.Clone(), Limbo: true, Err: s.fault.Error()}
	}
	meta := s.core.Meta()
	st := StreamStatus{
		View: s.view, Member: meta.Member(), Promise: s.core.Promise(), History: meta.History.Clone(),
		Received: s.log.End(), Durable: s.counted(s.core.DurablePos()), Commit: s.core.KnownCommit(), Limbo: meta.Limbo,
		Err: s.joining.last, Lease: s.leases.own.running(s.n.deps.Clock.Boot()),
	}
	st.LogFirst, st.LogBytes = s.log.First(), s.log.Bytes()
	st.BaseTaken, st.NewestBase = s.newestBase()
	if _, h, err := s.log.At(st.Durable.Seq); err == nil && st.Durable.Seq > 0 {
		st.DurablePosition, st.Generation = new(h.Next), h.Generation
	}
	if s.bases != nil {
		st.BaseBytes, st.Bases = s.bases.store.Bytes(), s.usableBases()
	}
	if text := s.seeding(); text != "" && st.Err == "" {
		st.Err = "seeding: " + text
	}
	part := s.view.partOf(s.n.cfg.Node, s.n.cfg.Site)
	st.Learner, st.Resting = part == partLearner || part == partResting, part == partResting
	if s.apply.fault != nil {
		st.Err = s.apply.fault.Error()
	}
	if l := s.apply.library; l != nil {
		st.Endpoint = l.hello.Endpoint
		st.Findings = append(l.findings.List(), l.needsFinding()...)
		if err := l.findings.Work(); err != nil && st.Err == "" {
			st.Err = err.Error()
		}
		if l.heard {
			at := l.progress.Applied
			st.AppliedPosition = &at
			st.StateDigest, st.StateDigestAt = l.progress.Digest, l.progress.DigestAt
		}
		if l.appliedOK {
			seq := l.applied
			st.Applied = &seq
			if lag, known := s.replay.lag(seq); known {
				st.ApplyLag = &lag
			}
		}
	}
	if h := s.apply.handover; h != nil {
		done := *h
		st.HandoverApplied = &done
	}
	if rate, known := s.replay.rate(); known {
		st.ApplyRate = &rate
	}
	s.beaconStatus(&st)
	st.Evidence = s.evidence()
	st.Findings = append(st.Findings, slices.Concat(s.refreshFinding(), s.trimFinding(), s.bases.lostFindings(), s.unfitFindings())...)
	st.Archive, st.Findings = archived, append(st.Findings, found...)
	st.Relays = make(map[tidegate.NodeName]string, len(s.relays))
	for node, err := range s.relays {
		st.Relays[node] = ""
		if err != nil {
			st.Relays[node] = err.Error()
		}
	}
	return st
}

func (s *stream) beaconStatus(st *StreamStatus) {
	b := s.beacon
	if !b.known {
		return
	}
	now := s.n.deps.Clock.Boot()
	age := time.Duration(now - b.at)
	head, wall := b.last.L, b.last.Wall
	st.BeaconAge, st.BeaconHead, st.BeaconWall = &age, &head, &wall
	if b.last.AKnown {
		released := b.last.A
		st.BeaconReleased = &released
	}
	if blind, ok := b.blind(now); ok {
		st.Blind = &blind
	}
}
