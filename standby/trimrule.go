package standby

import (
	"fmt"
	"math"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// trimFacts is everything that decides how much of a log may go. What is not known
// keeps the log.
type trimFacts struct {
	// Follows: this node is a member or a learner, its log has adopted the active
	// epoch, and no change is under way.
	Follows bool
	First   tidegate.Seq // oldest batch in the log
	Commit  tidegate.Seq // newest batch that is committed and durable here
	// Spare is the batch from which on what is always kept begins.
	Spare tidegate.Seq
	// Bases lists, oldest first, for each base that is held, and is of this log as far
	// as it reaches, the batch with which the log must begin.
	Bases   []tidegate.Seq
	Useless string // why a base that is held is not in Bases, for people
	Keep    int    // bases that are to stay of use
	// Warm: there is a service beside this node, connected or not, which may need the
	// log. Applied is the newest batch that it has applied, if Known.
	Warm    bool
	Known   bool
	Applied tidegate.Seq
	Peers   []trimPeer
	Wait    time.Duration
	// Tight: the disk is nearly full, and known to be. Nothing is kept for the archive
	// then: a node that refuses batches holds up clients, and the archive must not.
	Tight bool

	at   tidegate.LogPos // of Commit: that the log has not been cut since is seen by it
	term fence.Term      // that all of it is of: what a node has said is worth nothing in another
}

// trimPeer is another node of the stream, or the archive.
type trimPeer struct {
	Node tidegate.NodeName
	// Archive: it takes every batch. It cannot begin at a base.
	Archive bool
	Known   bool         // it has said, just now, where its log ends
	Next    tidegate.Seq // the batch that it needs next; 1: it has nothing, and begins at a base
	Held    time.Duration
	// Held is for how long this log has been kept for it.
}

func (p *trimPeer) who() string {
	if p.Archive {
		return string(p.Node)
	}
	return "node " + string(p.Node)
}

// trimRule is what the facts allow.
type trimRule struct {
	To tidegate.Seq // batches before it may go; First or less: nothing may
	// For names the nodes for which more is kept than the rest of the facts ask for;
	// Lost those that will need a base because it is not kept for them any longer.
	For  []tidegate.NodeName
	Lost []tidegate.NodeName
	// Tight: the archive is in Lost because the disk is nearly full, and not because it
	// was waited for.
	Tight bool
	Why   string // what keeps the rest, for people
}

// rule says how much of a log may go.
//
// Invariants (PROTOCOL G5), whatever the facts:
//  1. nothing goes unless the node follows and a base is held that needs none of it
//  2. nothing goes that is not committed and durable here
//  3. every one of the newest Keep bases stays complete with the log that is left
//  4. nothing goes that the warm service has not applied, and nothing while it may
//     have a part in the stream and has not said
//  5. nothing goes that a node needs next, or may need for all that is known, before
//     it was waited for for Wait; a node that has nothing needs a base, which 3 keeps;
//     the archive needs everything that it lacks, and is waited for only while the
//     disk is not nearly full
//  6. what goes was the oldest
func (f trimFacts) rule() trimRule {
	r := trimRule{}
	switch {
	case !f.Follows:
		r.Why = "this node does not follow the stream now"
		return r
	case len(f.Bases) == 0:
		r.Why = "no base is held that the log goes on from"
		if f.Useless != "" {
			r.Why += ": " + f.Useless
		}
		return r
	case f.Warm && !f.Known:
		r.Why = "the warm service has not said what it has applied"
		return r
	}
	r.To = tidegate.Seq(math.MaxUint64)
	most := func(seq tidegate.Seq, why string) {
		if seq < r.To {
			r.To, r.Why = seq, why
		}
	}
	for _, seq := range f.Bases[max(0, len(f.Bases)-max(f.Keep, 1)):] {
		most(seq, fmt.Sprintf("a base goes on from batch %s", seq))
	}
	most(f.Commit+1, "the rest is not committed")
	most(f.Spare, "the rest is always kept")
	if f.Warm {
		most(f.Applied+1, "the warm service has not applied the rest")
	}
	all := r.To
	for _, p := range f.Peers {
		switch {
		case p.Known && (p.Next <= 1 && !p.Archive || p.Next < f.First || p.Next >= all):
			// It begins at a base, it needs one already, or has what would go.
		case p.Held >= f.Wait:
			r.Lost = append(r.Lost, p.Node)
		case f.Tight && p.Archive:
			r.Lost, r.Tight = append(r.Lost, p.Node), true
		case !p.Known:
			r.For = append(r.For, p.Node)
			most(0, fmt.Sprintf("%s has not said what it has", p.who()))
		default:
			r.For = append(r.For, p.Node)
			most(p.Next, fmt.Sprintf("%s lacks batch %s", p.who(), p.Next))
		}
	}
	return r
}
