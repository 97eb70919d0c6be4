package standby

import (
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
)

// part is what this node is to a stream at present.
type part uint8

const (
	// partNone: not configured for it, and not named by its active epoch.
	partNone part = iota
	// partMember: the active epoch counts its acks.
	partMember
	// partLearner: configured, not counted. It follows the active epoch and is fed
	// by the relay, so that the next epoch can name it.
	partLearner
	// partResting: configured, not counted, and at the site where the stream is
	// written. What it would keep is lost with that site, and it would cost a way
	// back over the WAN: it keeps what it has, and follows when the writer is elsewhere.
	partResting
)

// home returns where the stream lives: the holder of its active epoch.
func home(rec *fence.EpochRecord) fence.Holder {
	if rec.Active.Node != "" {
		return rec.Active
	}
	return rec.Holder // a record of epoch 1 under way: nobody was active before
}

// partOf returns what a node at site is to the stream.
func (v *StreamView) partOf(node tidegate.NodeName, site tidegate.SiteName) part {
	rec := v.Record
	switch {
	case rec != nil && rec.Config.Index(node) >= 0:
		return partMember
	case !slices.Contains(v.Members, node):
		return partNone
	case rec == nil || rec.ActiveEpoch == 0:
		return partMember // configured since its registration; the first epoch will say
	case home(rec).Site == site:
		return partResting
	}
	return partLearner
}

// sourceOf returns what the gate says of the service beside a node as the stream's
// source. That it is to end is said from when a switchover asks for it until the
// stream lives elsewhere, or is called off.
func (v *StreamView) sourceOf(node tidegate.NodeName) local.Source {
	rec := v.Record
	if !v.fresh || rec == nil || rec.ActiveEpoch == 0 || home(rec).Node != node {
		return local.SourceUnknown
	}
	switch {
	case rec.State == fence.StateActive, rec.State == fence.StateSwitching && rec.Target.Node == node:
		return local.SourceWrites
	case rec.State == fence.StateSwitching, rec.State == fence.StateDemoted,
		rec.Handover != nil && rec.Handover.Head.Epoch == rec.ActiveEpoch:
		return local.SourceHandsOver
	}
	return local.SourceUnknown // being reserved: by an agent that was restarted, or to be taken away
}

// learners lists the nodes that the relay feeds beside the members of the active
// epoch. A node whose site the gate has not told of yet is not fed: it would
// perhaps be sent the log over the WAN that it came over.
func (v *StreamView) learners(sites map[tidegate.NodeName]tidegate.SiteName) []tidegate.NodeName {
	if v.Record == nil || v.Record.State != fence.StateActive && v.Record.State != fence.StateSwitching {
		return nil
	}
	var list []tidegate.NodeName
	for _, m := range v.Members {
		if site, known := sites[m]; known && v.partOf(m, site) == partLearner {
			list = append(list, m)
		}
	}
	return list
}
