package tidegate

import (
	"cmp"
	"slices"
	"time"
)

// Gap is that the source of a stream did not continue its log, and that somebody went
// on without what it had come to in between: a new generation began. It is on record
// for as long as the stream is.
type Gap struct {
	// Epoch is the one up to whose end the log is given up. What follows it under a newer
	// one, of the same stream, is of the next generation, unless a failover went back.
	Epoch Epoch    `json:"epoch"`
	Site  SiteName `json:"site"` // of the source
	Node  NodeName `json:"node"` // of the agent beside it
	// Lost is why the source did not go on, in its own words; empty: it had not said that
	// it does not, and whoever accepted it did.
	Lost string `json:"lost,omitempty"`

	Generation Generation `json:"generation,omitempty"` // that ends; 0: not known
	Durable    *Position  `json:"durable,omitempty"`    // up to which the other site had the log then; nil: not known
	Head       *Position  `json:"head,omitempty"`       // where the source stood then; nil: not known

	Reason string    `json:"reason"`
	Actor  string    `json:"actor"`
	Since  time.Time `json:"since"` // when it was accepted
	// AcceptedLoss: the source lacked what the other site had, or may have.
	AcceptedLoss bool `json:"accepted_loss,omitempty"`
}

// MergeGaps returns the gaps of both lists, by epoch. Of two of one epoch, of which the
// earlier came to nothing, the one that was accepted later is it. The result is a new slice.
func MergeGaps(a, b []Gap) []Gap {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y Gap) int { return cmp.Or(cmp.Compare(x.Epoch, y.Epoch), y.Since.Compare(x.Since)) })
	return slices.CompactFunc(all, func(x, y Gap) bool { return x.Epoch == y.Epoch })
}
