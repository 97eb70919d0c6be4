package stores

import "github.com/tidegate/tidegate"

// Spare is a Source that can make ready for its service's becoming active: while
// another node of the same site writes the stream, the store beside this agent may
// be the one that its own cluster promotes next. The methods may be called at any
// time, do no I/O, and do not wait.
type Spare interface {
	Source

	// Stand says how the stream stands, as seen from this node. Each call replaces what
	// the one before it said.
	Stand(Standing)

	// Whole reports whether a service that is active has all of its log: nothing comes
	// to it any more but what it writes itself. If standby nodes hold what such a service
	// lacks, it never will have it.
	Whole() bool
}

// Part is what a node may have to do with a stream that it does not write.
type Part uint8

// The parts.
const (
	PartUnknown Part = iota // or it writes the stream: what was begun stays as it is
	PartNext                // another node of this site writes it: this one may be next
	PartAway                // it is written at another site
)

// Standing is how a stream stands, for the store beside an agent that does not write
// it. The zero value asks for nothing.
type Standing struct {
	Part    Part
	Holds   bool              // its record says that outputs are held back: a service that takes over must from its first
	Durable tidegate.Position // W standby nodes hold all before it, and it is the same here; 0 while not known
}
