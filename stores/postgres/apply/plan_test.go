package apply

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const h = wal.LSN(0x3000158)

func at(p phase) saved {
	s := saved{Version: savedVersion, Phase: p, Generation: 1, Lineage: "pg:7:1"}
	if p == phasePromoting || p == phaseActive {
		s.Epoch, s.At = 5, h.Position()
	}
	return s
}

func told(state local.State, epoch tidegate.Epoch) local.Role {
	r := local.Role{State: state, Epoch: epoch, Generation: 1}
	if state == local.StateActive {
		r.ApplyTo, r.Branch = h.Position(), h.Position()
	}
	return r
}

func from(r local.Role, s local.Source) local.Role {
	r.Source = s
	return r
}

func lineaged(r local.Role) local.Role {
	r.Lineage = "pg:7:1+2@0000000003000158"
	return r
}

func drained(p phase) saved {
	s := at(p)
	s.Drained = true
	return s
}

func TestPlan(t *testing.T) {
	idle, follow, active, fenced := told(local.StateIdle, 5), told(local.StateFollow, 5), told(local.StateActive, 5), told(local.StateFenced, 5)
	none := local.Role{}
	reached := func(f facts) facts { f.replayed, f.received = h, h; return f }
	for name, c := range map[string]struct {
		f    facts
		want step
		why  string
	}{
		"nothing, nothing told":          {facts{saved: at(phaseNone)}, stepWait, "nothing to follow"},
		"nothing, idle":                  {facts{saved: at(phaseNone), role: idle, base: true}, stepWait, "nothing to follow"},
		"nothing, no base":               {facts{saved: at(phaseNone), role: follow}, stepWait, "no whole base"},
		"nothing, base":                  {facts{saved: at(phaseNone), role: follow, base: true}, stepRestore, ""},
		"cut short, nothing told":        {facts{saved: at(phaseRestoring)}, stepWait, ""},
		"cut short":                      {facts{saved: at(phaseRestoring), role: follow}, stepResume, ""},
		"restored, nothing told":         {facts{saved: at(phaseFollowing)}, stepStart, ""},
		"restored, idle":                 {facts{saved: at(phaseFollowing), role: idle}, stepStart, ""},
		"starting":                       {facts{saved: at(phaseFollowing), role: follow, server: serverStarting}, stepWait, "following"},
		"ordered while starting":         {facts{saved: at(phaseFollowing), role: active, server: serverStarting}, stepWait, ""},
		"following":                      {facts{saved: at(phaseFollowing), role: follow, server: serverRecovery}, stepWait, "following"},
		"promoted by hand":               {facts{saved: at(phaseFollowing), role: follow, server: serverPrimary}, stepStop, "without being told"},
		"promoted by hand, nothing told": {facts{saved: at(phaseFollowing), server: serverPrimary}, stepStop, ""},
		"other generation, no base":      {facts{saved: at(phaseFollowing), role: follow, server: serverRecovery, lost: true}, stepWait, "another generation"},
		"other generation":               {facts{saved: at(phaseFollowing), role: follow, server: serverRecovery, lost: true, base: true}, stepRestore, ""},
		"other generation, active":       {facts{saved: at(phaseFollowing), role: active, server: serverRecovery, lost: true, base: true, replayed: h}, stepWait, "another generation"},
		"ordered, behind":                {facts{saved: at(phaseFollowing), role: active, server: serverRecovery, replayed: h - 8, received: h}, stepWait, "replaying"},
		"ordered":                        {reached(facts{saved: at(phaseFollowing), role: active, server: serverRecovery}), stepPromote, ""},
		"ordered, restarted at H":        {facts{saved: at(phaseFollowing), role: active, server: serverRecovery, replayed: h, received: 0x3000000}, stepPromote, ""},
		"ordered, holds more":            {facts{saved: at(phaseFollowing), role: active, server: serverRecovery, replayed: h + 8}, stepStop, "more than H"},
		"ordered, received more":         {facts{saved: at(phaseFollowing), role: active, server: serverRecovery, replayed: h, received: h + 8}, stepStop, "more than H"},
		"begun, nothing told":            {reached(facts{saved: at(phasePromoting), server: serverRecovery}), stepWait, "word"},
		"begun, down":                    {facts{saved: at(phasePromoting), role: active}, stepStart, ""},
		"begun, led, down":               {facts{saved: at(phasePromoting), role: follow}, stepStart, ""},
		"begun, led":                     {reached(facts{saved: at(phasePromoting), role: follow, server: serverRecovery}), stepWait, "order"},
		"begun, ordered":                 {reached(facts{saved: at(phasePromoting), role: active, server: serverRecovery}), stepPromote, ""},
		"begun, ordered anew":            {reached(facts{saved: at(phasePromoting), role: told(local.StateActive, 6), server: serverRecovery}), stepPromote, ""},
		"begun, old order":               {reached(facts{saved: at(phasePromoting), role: told(local.StateActive, 4), server: serverRecovery}), stepWait, ""},
		"begun, done":                    {facts{saved: at(phasePromoting), role: active, server: serverPrimary}, stepVerify, ""},
		"begun, done, node restarted":    {facts{saved: at(phasePromoting), role: idle, server: serverPrimary}, stepVerify, ""},
		"begun, done, nothing told":      {facts{saved: at(phasePromoting), server: serverPrimary}, stepWait, ""},
		"begun, given up":                {reached(facts{saved: at(phasePromoting), role: told(local.StateFollow, 6), server: serverRecovery}), stepFollow, ""},
		"begun, done, given up":          {facts{saved: at(phasePromoting), role: told(local.StateFollow, 6), server: serverPrimary}, stepLeave, ""},
		"begun, done, newer idle":        {facts{saved: at(phasePromoting), role: told(local.StateIdle, 6), server: serverPrimary}, stepWait, ""},
		"active, found running":          {facts{saved: at(phaseActive), server: serverPrimary, unverified: true}, stepVerify, ""},
		"active, nothing told":           {facts{saved: at(phaseActive), server: serverPrimary}, stepWait, ""},
		"active, down, nothing told":     {facts{saved: at(phaseActive)}, stepWait, "word"},
		"active, down":                   {facts{saved: at(phaseActive), role: idle}, stepStart, ""},
		"active, down, ordered":          {facts{saved: at(phaseActive), role: active}, stepStart, ""},
		"active, down, newer epoch":      {facts{saved: at(phaseActive), role: told(local.StateIdle, 6)}, stepWait, "newer epoch"},
		"active, newer epoch of ours":    {facts{saved: at(phaseActive), role: told(local.StateIdle, 6), server: serverPrimary}, stepNote, ""},
		"active":                         {facts{saved: at(phaseActive), role: idle, server: serverPrimary}, stepWait, "active"},
		"active, node is behind":         {facts{saved: at(phaseActive), role: follow, server: serverPrimary}, stepWait, ""},
		"active, gone elsewhere":         {facts{saved: at(phaseActive), role: told(local.StateFollow, 6), server: serverPrimary}, stepLeave, ""},
		"active, fenced":                 {facts{saved: at(phaseActive), role: told(local.StateFenced, 6), server: serverPrimary}, stepLeave, ""},
		"active, fenced by the old":      {facts{saved: at(phaseActive), role: fenced, server: serverPrimary}, stepWait, ""},
		"active, a standby was made":     {facts{saved: at(phaseActive), role: idle, server: serverRecovery}, stepStop, "standby"},
		"stood down, running":            {facts{saved: at(phaseStoodDown), role: active, server: serverPrimary}, stepStop, ""},
		"stood down":                     {facts{saved: at(phaseStoodDown), role: active}, stepWait, ""},
		"somebody's":                     {facts{saved: at(phaseNone), role: from(idle, local.SourceWrites), server: serverStarting, adopted: true}, stepWait, "somebody else's"},
		"somebody's, down":               {facts{saved: at(phaseNone), role: from(idle, local.SourceWrites), adopted: true, base: true}, stepWait, ""},
		"somebody's, drains":             {facts{saved: at(phaseNone), role: from(idle, local.SourceHandsOver), server: serverStarting, adopted: true}, stepDrain, ""},
		"somebody's, drained":            {facts{saved: drained(phaseNone), role: from(idle, local.SourceHandsOver), adopted: true}, stepWait, "stopped"},
		"somebody's, drained, unknown":   {facts{saved: drained(phaseNone), role: idle, adopted: true}, stepWait, "stopped"},
		"somebody's, called off":         {facts{saved: drained(phaseNone), role: from(idle, local.SourceWrites), adopted: true}, stepUndrain, ""},
		"somebody's, left":               {facts{saved: drained(phaseNone), role: follow, adopted: true}, stepLeave, ""},
		"somebody's, left, runs":         {facts{saved: at(phaseNone), role: follow, server: serverStarting, adopted: true}, stepLeave, ""},
		"active, drains":                 {facts{saved: at(phaseActive), role: from(idle, local.SourceHandsOver), server: serverPrimary}, stepDrain, ""},
		"active, drained":                {facts{saved: drained(phaseActive), role: from(active, local.SourceHandsOver)}, stepWait, "stopped"},
		"active, drained, unknown":       {facts{saved: drained(phaseActive), role: active}, stepWait, "stopped"},
		"active, called off":             {facts{saved: drained(phaseActive), role: from(active, local.SourceWrites)}, stepUndrain, ""},
		"active, drained, gone":          {facts{saved: drained(phaseActive), role: told(local.StateFollow, 6)}, stepLeave, ""},
		"left, runs":                     {facts{saved: at(phaseLeft), role: follow, server: serverStarting}, stepLeave, ""},
		"left, nothing told":             {facts{saved: at(phaseLeft)}, stepWait, "waiting"},
		"left, no lineage yet":           {facts{saved: at(phaseLeft), role: follow}, stepWait, "waiting"},
		"left":                           {facts{saved: at(phaseLeft), role: lineaged(follow), bare: true}, stepRejoin, ""},
		"left, lineage of before":        {facts{saved: at(phaseLeft), role: lineaged(follow)}, stepWait, "waiting"},
		"nothing but a role of nobody":   {facts{saved: at(phaseNone), role: none, base: true}, stepWait, ""},
	} {
		got := plan(c.f)
		if got.step != c.want || !strings.Contains(got.why, c.why) {
			t.Errorf("%s: %s (%s), want %s (%s)", name, got.step, got.why, c.want, c.why)
		}
	}
}

// Every combination of facts: the invariants of plan hold.
func TestPlanKeepsItsInvariants(t *testing.T) {
	states := []local.State{0, local.StateIdle, local.StateFollow, local.StateActive, local.StateFenced}
	for _, p := range []phase{phaseNone, phaseRestoring, phaseFollowing, phasePromoting, phaseActive, phaseStoodDown, phaseLeft} {
		for _, state := range states {
			for epoch := tidegate.Epoch(4); epoch <= 6; epoch++ {
				for s := serverDown; s <= serverPrimary; s++ {
					for bits := range 256 {
						for _, replayed := range []wal.LSN{0, h - 8, h, h + 8} {
							f := facts{
								saved: at(p), role: told(state, epoch), server: s, base: bits&1 != 0, lost: bits&2 != 0,
								unverified: bits&4 != 0 && p == phaseActive && s == serverPrimary, replayed: replayed, received: replayed,
							}
							f.bare, f.role.Lineage = bits&2 == 0, "pg:7:1"
							f.adopted, f.saved.Drained, f.role.Source = bits&8 != 0, bits&16 != 0, local.Source(bits>>5%3)
							f.unreadable = bits&128 != 0
							if state == 0 {
								f.role = local.Role{}
							}
							checkPlan(t, f)
						}
					}
				}
			}
		}
	}
}

func checkPlan(t *testing.T, f facts) {
	t.Helper()
	d := plan(f)
	bad := ""
	switch {
	case d.why == "" && f.saved.Phase != phaseStoodDown:
		bad = "no reason"
	case f.server == serverPrimary && f.saved.Phase == phaseFollowing && d.step != stepStop:
		bad = "1: out of recovery unasked, and left so"
	case d.step == stepStart && f.server != serverDown:
		bad = "started while running"
	case d.step == stepStart && f.saved.Phase == phaseActive && (f.role.State == 0 || f.role.Epoch < f.saved.Epoch):
		bad = "2: active without the node's word"
	case f.saved.Phase == phaseStoodDown && d.step != stepWait && d.step != stepStop:
		bad = "3: came back by itself"
	case d.step == stepPromote && (f.replayed != h || f.received > h || f.role.State != local.StateActive || f.role.Epoch < f.saved.Epoch):
		bad = "4: promoted elsewhere than at H, or unasked"
	case (d.step == stepStart && f.saved.Phase == phaseActive || d.step == stepUndrain) && f.saved.Drained && f.role.Source != local.SourceWrites:
		bad = "5: started as a source without the gate's word"
	case d.step == stepRejoin && (!f.bare || f.role.State != local.StateFollow || f.role.Lineage == ""):
		bad = "6: rejoined a log that has not shown how it went on"
	case f.unreadable && d.step != stepWait && d.step != stepStop:
		bad = "7: something was done with data that does not say what it is"
	case d.step == stepVerify && f.server != serverPrimary:
		bad = "verified what is not out of recovery"
	case (d.step == stepRestore || d.step == stepResume) && f.role.State != local.StateFollow:
		bad = "restored with nothing to follow"
	}
	if bad != "" {
		t.Fatalf("%s: %+v gives %s (%s)", bad, f, d.step, d.why)
	}
}
