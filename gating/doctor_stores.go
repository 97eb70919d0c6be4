package gating

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
)

// doctorStores passes on what the libraries and connectors on the nodes have found
// of themselves and of their stores. Who is silent has nothing new to say: that it
// is silent is a finding of its own.
func (s *operatorService) doctorStores(f *findings, v *registry.View) {
	names := map[string]string{}
	for _, id := range slices.SortedFunc(maps.Keys(v.Streams), func(a, b tidegate.StreamID) int { return strings.Compare(a.String(), b.String()) }) {
		e := v.Streams[id]
		names[id.String()] = fmt.Sprintf("%s/%s", e.Value.Service, e.Value.Name)
		if r := e.Value.Renewal; r.Pending(v.Epochs[id].Value) {
			f.add(pb.Severity_SEVERITY_WARNING, "stream "+names[id.String()], "see the agent at site "+string(r.Site)+"; nothing new of the source is protected until it has",
				"a new generation was declared by %s (%s), and is not opened yet", r.Actor, r.Reason)
		}
	}
	say := func(daemon string, node tidegate.NodeName, stream string, all []*pb.StoreFinding) {
		name, known := names[stream]
		if !known {
			return
		}
		for _, one := range all {
			text := one.GetText()
			if one.GetName() != "" {
				text = one.GetName() + ": " + text
			}
			f.add(one.GetSeverity(), fmt.Sprintf("stream %s on %s %s", name, daemon, node), first(one.GetHint(), "look at the log of the "+daemon+" on that node"), "%s", text)
		}
	}
	s.world.read(func() {
		for _, node := range slices.Sorted(maps.Keys(s.world.agents)) {
			a := s.world.agents[node]
			if s.world.age(a.at) > s.timing.Stale {
				continue
			}
			for _, one := range a.report.GetStreams() {
				say("agent", node, one.GetStreamId(), one.GetFindings())
				if name, known := names[one.GetStreamId()]; known && one.GetOpening() {
					f.add(pb.Severity_SEVERITY_WARNING, "stream "+name, "`tidegate status` shows how far its base is; until then a failover goes back to the end of the generation before, if there is one",
						"generation %d counts for nothing yet: too few standby nodes have its base", one.GetGeneration())
				}
			}
		}
		for _, node := range slices.Sorted(maps.Keys(s.world.standbys)) {
			st := s.world.standbys[node]
			if s.world.age(st.at) > s.timing.Stale {
				continue
			}
			for _, one := range st.report.GetStreams() {
				say("standby", node, one.GetStreamId(), one.GetFindings())
			}
		}
	})
}
