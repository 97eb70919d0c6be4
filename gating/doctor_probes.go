package gating

import (
	"maps"
	"slices"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
)

// doctorProbes says what keeps this gate from knowing when clients are served: it
// leads, so what it does not know the next plan will not either.
func (s *operatorService) doctorProbes(f *findings, v *registry.View) {
	for _, name := range v.ServiceNames() {
		subject := "service " + string(name)
		if !s.probes.writes(name) {
			f.add(pb.Severity_SEVERITY_INFO, subject, "give every gate a probe of level write for it, under `probes:` in its file",
				"gate %s has no synthetic client that writes: when clients are served, and so the time that a recovery took, is not known", s.name)
		}
		if err := s.probes.failing(name); err != nil {
			hint := tidegate.HintOf(err)
			if hint == "" {
				hint = "see whether clients reach it: `tidegate status`"
			}
			f.add(pb.Severity_SEVERITY_WARNING, subject, hint, "the synthetic client of gate %s fails: %v", s.name, err)
		}
	}
	if v.Revision == 0 {
		return // nothing is known of what is registered
	}
	for _, name := range slices.Sorted(maps.Keys(s.probes.all)) {
		if _, ok := v.Services[name]; !ok {
			f.add(pb.Severity_SEVERITY_WARNING, "gate "+s.name, "register the service, or take it out of `probes:`", "it probes service %s, which is not registered", name)
		}
	}
}

// failing returns the error of a client's newest attempt; nil when it was good, or
// nothing was tried.
func (p *probes) failing(s tidegate.ServiceName) error {
	one := p.all[s]
	if one == nil {
		return nil
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.err
}
