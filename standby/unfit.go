package standby

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/snapshot"
)

// unfit is a base that could not be given to the service beside this node: it is
// damaged here, or the service did not take it. It is remembered as long as the
// process runs and the base is there, so that an older one is tried.
type unfit struct {
	base snapshot.Listed
	why  error
	at   tidegate.Instant
}

// unfitAgain is when a base is tried once more, where there is nothing else to try:
// whatever was in its way may have been mended.
const unfitAgain = 5 * time.Minute

// choose picks of bases, by start, the newest that was not found unfit; when all were,
// and nothing else will do, the one that was tried longest ago, once that is due. why
// says what is wrong with all of them. mu is held.
func (a *applyState) choose(list []snapshot.Listed, must bool, now tidegate.Instant) (base *snapshot.Listed, why error) {
	var oldest unfit
	for i := range slices.Backward(list) {
		u, tried := a.unfit[list[i].Name]
		if !tried {
			return &list[i], nil
		}
		if oldest.why == nil || u.at < oldest.at {
			oldest = u
		}
	}
	if oldest.why != nil && must && time.Duration(now-oldest.at) >= unfitAgain {
		return &oldest.base, nil
	}
	return nil, oldest.why
}

// unfit notes that a base cannot be given to the service, and returns the session's
// error: the service connects anew, and is given what was there before.
func (l *library) unfit(base *snapshot.Listed, why error) error {
	s := l.s
	s.mu.Lock()
	if s.apply.unfit == nil {
		s.apply.unfit = map[snapshot.Name]unfit{}
	}
	s.apply.unfit[base.Name] = unfit{*base, why, s.n.deps.Clock.Boot()}
	s.mu.Unlock()
	s.lg.Warn("base cannot be given to the warm service: trying what was before it", "name", base.Name.String(), "generation", uint32(base.Generation),
		"start", base.Start.String(), keyErr, why, "hint", tidegate.HintOf(why))
	return &tidegate.Error{Op: "give base to the warm service", Class: tidegate.Transient, Err: why}
}

// findingUnfit names what the node says of a base that its service was not given.
const findingUnfit = "base-unfit"

// unfitFindings is what there is to say of them; mu is held.
func (s *stream) unfitFindings() (list []local.Finding) {
	if s.bases == nil {
		return nil
	}
	for _, name := range slices.SortedFunc(maps.Keys(s.apply.unfit), func(a, b snapshot.Name) int { return slices.Compare(a[:], b[:]) }) {
		u := s.apply.unfit[name]
		if !slices.ContainsFunc(s.bases.held, func(h snapshot.Listed) bool { return h.Name == name }) {
			delete(s.apply.unfit, name) // it has gone
			continue
		}
		list = append(list, local.Finding{
			Name: findingUnfit, Severity: local.SeverityWarning,
			Text: fmt.Sprintf("base %.12s at %s could not be given to the service, an older one or the log is: %v", name.String(), u.base.Start, u.why),
			Hint: "is it damaged, or of a release that the service cannot read? `tidegate standby base refresh` makes a newer one, once the service follows",
		})
	}
	return list
}
