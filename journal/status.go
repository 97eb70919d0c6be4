package journal

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/rpo"
)

// Status is what the journal's gate knows at one moment, for the service's own
// status page. A and D mean something only where their Known is true.
type Status struct {
	Active   bool              // between Activate and Deactivate
	Epoch    tidegate.Epoch    // latest that the agent on this node held; 0 if none
	FencedBy tidegate.Epoch    // held by somebody else; 0 if not fenced
	L        tidegate.Position // durable here
	A        tidegate.Position // released
	AKnown   bool
	D        tidegate.Position // durable at the other site
	DKnown   bool
	Groups   uint64 // writes to the disk since Open, each of all records that had gathered

	Gate        machine.State    // what is shown of the gate
	GateSince   tidegate.Instant // of Gate, boot clock
	Closed      bool             // nothing leaves beyond A, for longer than a round trip takes
	Refuses     error            // what new work would be answered now; nil: it is taken
	Want        machine.Want     // what the gate's record should say
	Utilisation float64          // largest used share of a bound; means something only while active
	Exposure    rpo.Exposure     // what a disaster would lose now
	Rejected    uint64           // calls that the gate refused since Open
	AgentLost   bool             // the agent went away while it held the epoch
	LeaseNeeded bool             // beyond D outputs leave only before LeaseUntil, boot clock
	LeaseUntil  tidegate.Instant
}

// Status returns what the gate knows now.
func (j *Journal) Status() Status {
	j.mu.Lock()
	groups := j.groups
	j.mu.Unlock()
	g := &j.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{Active: g.Ceiling != nil, Epoch: g.Epoch, FencedBy: g.FencedBy, L: g.Head.Position, Groups: groups}
	if g.Ceiling != nil {
		a, known := g.Ceiling.A()
		s.A, s.AKnown = a.Position, known
		s.D, s.DKnown = g.Ceiling.D()
	}
	s.Gate, s.GateSince, s.Closed, s.Want = g.Out.State, g.Out.Since, g.Out.Closed, g.Out.Want
	s.Utilisation, s.Rejected, s.AgentLost = g.Standing.Utilisation, g.rejected.Load(), g.Lost
	s.LeaseNeeded, s.LeaseUntil = g.Terms.LeaseNeeded, g.Terms.LeaseUntil
	s.Refuses, s.Exposure = g.refused(), g.Exposure(g.clock.Boot())
	return s
}
