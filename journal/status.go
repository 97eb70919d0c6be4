package journal

import "github.com/tidegate/tidegate"

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
}

// Status returns what the gate knows now.
func (j *Journal) Status() Status {
	j.mu.Lock()
	groups := j.groups
	j.mu.Unlock()
	g := &j.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{Active: g.ceiling != nil, Epoch: g.epoch, FencedBy: g.fencedBy, L: g.head.Position, Groups: groups}
	if g.ceiling != nil {
		a, known := g.ceiling.A()
		s.A, s.AKnown = a.Position, known
		s.D, s.DKnown = g.ceiling.D()
	}
	return s
}
