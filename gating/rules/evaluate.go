package rules

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Evidence is one fact a verdict looked at, as text.
type Evidence struct {
	Key   string
	Value string
}

// Verdict is a rule's answer.
type Verdict struct {
	Rule     string
	Stream   tidegate.StreamName // empty: of the service as a whole
	Holds    bool                // the rule permits the action, by itself or because it was overridden
	Known    bool                // everything it asks was known; false never holds by itself
	Reason   string
	Evidence []Evidence
	Override string // how the operator may go on against it; "" for not at all
	Instead  string // what to do about it

	// OverriddenBy is set when the rule holds only because somebody said so: a
	// named override, or a flag of the request, which has no expiry.
	OverriddenBy *Override
}

// finding is a rule's own answer, before overrides.
type finding struct {
	holds, known bool
	reason       string
	evidence     []Evidence
}

func yes(format string, a ...any) finding {
	return finding{holds: true, known: true, reason: fmt.Sprintf(format, a...)}
}

func no(format string, a ...any) finding {
	return finding{known: true, reason: fmt.Sprintf(format, a...)}
}

func unknown(format string, a ...any) finding { return finding{reason: fmt.Sprintf(format, a...)} }

func (f finding) with(key string, format string, a ...any) finding {
	f.evidence = append(f.evidence, Evidence{key, fmt.Sprintf(format, a...)})
	return f
}

// Evaluate answers every rule that the action needs, in the order of the table;
// rules about streams once per stream. It is total: facts nobody knows are
// answered with a verdict that is not known and does not hold. An action that is
// not one of [Actions] needs every rule.
func Evaluate(f Facts, q Request, overrides []Override, now time.Time) []Verdict {
	f.Limits = f.Limits.SetDefaults()
	var out []Verdict
	for _, r := range Rules() {
		if slices.Contains(Actions(), q.Action) && !r.Applies(q.Action) {
			continue
		}
		add := func(stream tidegate.StreamName, x finding) {
			v := Verdict{Rule: r.Name, Stream: stream, Holds: x.holds, Known: x.known, Reason: x.reason, Evidence: x.evidence, Override: r.How(q.Action), Instead: r.Instead}
			if !v.Holds {
				v.OverriddenBy = met(r, q, overrides, now)
				v.Holds = v.OverriddenBy != nil
			}
			out = append(out, v)
		}
		if of := serviceRules[r.Name]; of != nil {
			add("", of(&f))
			continue
		}
		if len(f.Streams) == 0 {
			add("", unknown("the service has no streams"))
		}
		for i := range f.Streams {
			s := &f.Streams[i]
			x := streamRules[r.Name](&f, s, q)
			x.reason = string(s.Name) + ": " + x.reason
			add(s.Name, x)
		}
	}
	return out
}

// met returns by whose word a rule that does not hold is gone against, or nil.
func met(r Rule, q Request, overrides []Override, now time.Time) *Override {
	flag := r.Flag == FlagAcceptLoss && q.AcceptLoss || r.Flag == FlagAttest && q.Attest
	if flag && !q.Action.Planned() && q.Action != Auto {
		return &Override{Rule: r.Name, Reason: strings.TrimSpace(r.Flag + " " + q.Reason), Actor: q.Actor, Given: now}
	}
	if !r.named() {
		return nil
	}
	return find(overrides, r.Name, now)
}

// Failing returns the verdicts that do not hold.
func Failing(vs []Verdict) []Verdict {
	return slices.DeleteFunc(slices.Clone(vs), func(v Verdict) bool { return v.Holds })
}

// serviceRules and streamRules answer the rules of the table; a test proves that
// each is in exactly one of them.
var serviceRules = map[string]func(*Facts) finding{
	FreezeOff:  freezeOff,
	ArmSwitch:  armSwitch,
	Target:     target,
	Capacity:   capacity,
	DrillFresh: drillFresh,
}

var streamRules = map[string]func(*Facts, *StreamFacts, Request) finding{
	RegistryTrusted: registryTrusted,
	Record:          record,
	FenceQuorum:     fenceQuorum,
	AdoptQuorum:     adoptQuorum,
	PrimaryFenced:   primaryFenced,
	RPOBound:        rpoBound,
	DatumFresh:      datumFresh,
	CaughtUp:        caughtUp,
	NoGap:           noGap,
	ContentVerified: contentVerified,
}

func freezeOff(f *Facts) finding {
	switch s := f.Service; {
	case s.Frozen == nil:
		return unknown("it is not known whether role changes are frozen")
	case *s.Frozen:
		return no("frozen: %s", orElse(s.FrozenWhy, "no reason was given"))
	}
	return yes("role changes are allowed")
}

func armSwitch(f *Facts) finding {
	switch s := f.Service; {
	case s.Armed == nil:
		return unknown("it is not known whether the arm switch is on")
	case !*s.Armed:
		return no("off: %s", orElse(s.ArmedWhy, "no reason was given"))
	}
	return yes("on")
}

func target(f *Facts) finding {
	t := f.Target
	switch {
	case t.Node == "":
		return unknown("no member has a reporting agent beside it to take over; name the target")
	case t.Registered == nil:
		return unknown("it is not known whether %s is a registered standby node", t.Node)
	case !*t.Registered:
		return no("%s is not a registered standby node", t.Node)
	case !is(t.Agent):
		return finding{known: t.Agent != nil, reason: fmt.Sprintf("the agent on %s is not known to any gate", t.Node)}
	case len(f.Streams) == 0:
		return unknown("the service has no streams")
	}
	for i := range f.Streams {
		s := &f.Streams[i]
		switch {
		case s.TargetNamed == nil || s.TargetHolds == nil:
			return unknown("it is not known whether %s is a member of %s, or holds it", t.Node, s.Name)
		case !*s.TargetNamed:
			return no("%s is not a member of %s", t.Node, s.Name)
		case *s.TargetHolds:
			return no("%s is active on %s already (%s); its agent acquires an epoch by itself as soon as its service runs", s.Name, t.Node, s.Writer)
		}
		if m := s.member(t.Node); m == nil || !m.alive() {
			return finding{known: m != nil && m.Answers != nil && m.Knows != nil, reason: fmt.Sprintf("%s has not reported %s lately, or does not know what it had", t.Node, s.Name)}
		}
	}
	return yes("%s is a member of every stream and its agent is known", t.Node).with("target", "%s", t.Node)
}

func capacity(f *Facts) finding {
	t, l := f.Target, f.Limits
	switch {
	case t.Node == "" || t.DiskFree == nil || t.Healthy == nil:
		return unknown("the target does not say how much room it has")
	case !*t.Healthy:
		return no("%s: %s", t.Node, orElse(t.HealthWhy, "a stream reports an error"))
	case *t.DiskFree < l.DiskFree:
		return no("%s has %d bytes free, want %d", t.Node, *t.DiskFree, l.DiskFree)
	case t.DiskGrowth == nil || math.IsNaN(*t.DiskGrowth):
		return unknown("%s has %d bytes free; how fast its logs grow is not measured yet, which takes a minute from its start", t.Node, *t.DiskFree)
	}
	x := yes("%s has %d bytes free, no growth", t.Node, *t.DiskFree)
	if *t.DiskGrowth > 0 {
		seconds := float64(*t.DiskFree) / *t.DiskGrowth
		lasts := fmt.Sprintf("%.1f h", seconds/3600)
		x = yes("%s has %d bytes free, which last for %s", t.Node, *t.DiskFree, lasts)
		if seconds < l.DiskLasts.Seconds() {
			x = no("%s has %d bytes free, which last for %s, want %s", t.Node, *t.DiskFree, lasts, l.DiskLasts)
		}
	}
	return x.with("disk_free_bytes", "%d", *t.DiskFree).with("growth_bytes_per_second", "%.0f", *t.DiskGrowth)
}

func drillFresh(f *Facts) finding {
	switch age := f.Service.DrillAge; {
	case age == nil:
		return unknown("there is no evidence of a drill")
	case *age < 0 || *age > f.Limits.DrillAge:
		return no("the newest passing drill was %s ago, want at most %s", age.Round(time.Second), f.Limits.DrillAge)
	default:
		return yes("a drill passed %s ago", age.Round(time.Second))
	}
}

func registryTrusted(_ *Facts, s *StreamFacts, _ Request) finding {
	switch {
	case s.Restored == nil:
		return unknown("it is not known whether the registry has gone back in time")
	case *s.Restored:
		return no("the registry has gone back in time and no writer has re-armed since")
	}
	return yes("no sign that the registry has gone back in time")
}

func record(_ *Facts, s *StreamFacts, _ Request) finding {
	switch {
	case s.Recorded == nil || s.NeverWritten == nil:
		return unknown("its record is not known")
	case !*s.Recorded:
		return no("it has no epoch record")
	case *s.NeverWritten:
		return yes("it never had a writer: it opens with an empty log")
	}
	return yes("%s", orElse(s.Writer, "it has a record"))
}

func fenceQuorum(_ *Facts, s *StreamFacts, _ Request) finding {
	if s.Quorum.Validate() != nil {
		return unknown("its configuration is not known")
	}
	alive, need := s.alive(), s.Quorum.R()
	text := fmt.Sprintf("%d of %d members answer and know what they had (%s), want %d", len(alive), s.Quorum.N, strings.Join(alive, " "), need)
	x := finding{holds: len(alive) >= need, known: true, reason: text}
	return x.with("answer", "%s", strings.Join(alive, " ")).with("n", "%d", s.Quorum.N).with("w", "%d", s.Quorum.W).with("r", "%d", need)
}

func adoptQuorum(f *Facts, s *StreamFacts, q Request) finding {
	if s.Quorum.Validate() != nil {
		return unknown("its configuration is not known")
	}
	alive := s.alive()
	there := slices.Contains(alive, string(f.Target.Node))
	need := 1 // a failover may open with fewer members than configured
	if q.Action.Planned() {
		need = s.Quorum.W
		if m := s.member(f.Target.Node); m != nil && m.alive() {
			there = true // it is reconfigured in first
		}
	}
	have := map[bool]string{true: "is", false: "is not"}[there]
	x := finding{
		holds: len(alive) >= need && there, known: true,
		reason: fmt.Sprintf("%d members can take the chosen log, want %d; the target %s %s among them", len(alive), need, orElse(string(f.Target.Node), "(none)"), have),
	}
	return x.with("answer", "%s", strings.Join(alive, " "))
}

func primaryFenced(_ *Facts, s *StreamFacts, _ Request) finding {
	switch {
	case is(s.NeverWritten):
		return yes("it never had a writer")
	case s.Quorum.Validate() != nil:
		return unknown("it is not known how many members could go on serving it")
	case len(s.alive()) < s.Quorum.R():
		// Whatever its gate does: W members may be left that go on serving it.
		return no("fewer than %d members answer: it may be cut off from here only, and the others may serve it", s.Quorum.R())
	case is(s.GateHolds):
		return yes("%s: a cut-off writer stops by itself", s.GateText).with("gate", "%s", s.GateText)
	case s.Lease != nil && *s.Lease > 0:
		return yes("%s: a cut-off writer's outputs end with its lease of %s", s.GateText, *s.Lease).with("lease", "%s", *s.Lease)
	case s.GateHolds == nil:
		return unknown("it is not known what the writer's gate does")
	}
	return no("%s: a cut-off writer could go on releasing outputs", orElse(s.GateText, "no bounds")).with("gate", "%s", s.GateText)
}

func rpoBound(f *Facts, s *StreamFacts, _ Request) finding {
	if s.Loss == nil {
		return unknown("loss unknown: nobody can tell")
	}
	x := finding{holds: Acceptable(*s.Loss, f.Service.MaxLoss), known: s.Loss.Kind != fence.LossUnknown, reason: LossText(*s.Loss)}
	if !x.holds {
		x.reason += "; the service accepts " + f.Service.MaxLoss.String()
	}
	return x.with("loss", "%s", s.Loss.Kind).with("max_loss", "%s", f.Service.MaxLoss)
}

// datumFresh compares ages on one machine. What was silent for as long as the
// writer was is not stale: there was nothing to hear.
func datumFresh(f *Facts, s *StreamFacts, q Request) finding {
	if is(s.NeverWritten) {
		return yes("it never had a writer")
	}
	if s.BeaconAge == nil || *s.BeaconAge < 0 {
		return unknown("no member has heard a beacon of the writer")
	}
	limit, stale, text := f.Limits.DatumAge, *s.BeaconAge, fmt.Sprintf("the newest beacon is %s old", s.BeaconAge.Round(time.Millisecond))
	x := finding{known: true}
	if !q.Action.Planned() && s.WriterSilent != nil && *s.WriterSilent >= 0 {
		stale = max(0, stale-*s.WriterSilent)
		text += fmt.Sprintf("; the writer's last sign of life was %s ago", s.WriterSilent.Round(time.Millisecond))
		x = x.with("writer_silent", "%s", *s.WriterSilent)
	} else if !q.Action.Planned() && stale > limit {
		// Whether it fell silent with the writer or long before, nobody can tell.
		return unknown("%s, and when the writer last gave a sign of life is not known", text).with("beacon_age", "%s", *s.BeaconAge)
	}
	x.holds, x.reason = stale <= limit, text
	if !x.holds {
		x.reason += fmt.Sprintf("; want at most %s between them", limit)
		if q.Action.Planned() {
			x.reason = fmt.Sprintf("%s, want at most %s", text, limit)
		}
	}
	return x.with("beacon_age", "%s", *s.BeaconAge)
}

func caughtUp(f *Facts, s *StreamFacts, _ Request) finding {
	switch {
	case is(s.NeverWritten):
		return yes("it never had a writer")
	case s.Applies == nil:
		return unknown("how far the service beside %s has applied it is not known: it is not connected, or has not said yet", orElse(string(f.Target.Node), "(none)"))
	case !*s.Applies:
		return no("%s", orElse(s.AppliesWhy, "the target's service applies nothing"))
	}
	return yes("%s", orElse(s.AppliesWhy, "the target's service applies it"))
}

func noGap(_ *Facts, s *StreamFacts, _ Request) finding {
	switch {
	case is(s.NeverWritten):
		return yes("it never had a writer")
	case s.NoGap == nil:
		return unknown("the target does not tell")
	case !*s.NoGap:
		return no("%s", orElse(s.GapWhy, "a stretch of the log is missing"))
	}
	return yes("the target's log is contiguous")
}

func contentVerified(f *Facts, s *StreamFacts, _ Request) finding {
	m := s.member(f.Target.Node)
	switch {
	case is(s.NeverWritten):
		return yes("it never had a writer")
	case m == nil || m.Verified == nil:
		return unknown("nothing proves what the target %s holds", orElse(string(f.Target.Node), "(none)"))
	case !*m.Verified:
		return no("%s: %s", m.Node, orElse(m.Why, "what it holds is not what the writer wrote"))
	case s.Agree == nil:
		return unknown("the members' logs were not compared")
	case !*s.Agree:
		return no("%s", orElse(s.Differs, "two members differ"))
	}
	var verified []string
	for _, m := range s.Members {
		if m.InForce && is(m.Verified) {
			verified = append(verified, string(m.Node))
		}
	}
	return yes("%s: %s; no member contradicts another", m.Node, orElse(m.Why, "proven")).with("verified", "%s", strings.Join(verified, " "))
}

// alive lists the members of the configuration in force that count now, by name.
func (s *StreamFacts) alive() []string {
	var out []string
	for _, m := range s.Members {
		if m.InForce && m.alive() {
			out = append(out, string(m.Node))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *StreamFacts) member(n tidegate.NodeName) *MemberFacts {
	for i := range s.Members {
		if n != "" && s.Members[i].Node == n {
			return &s.Members[i]
		}
	}
	return nil
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
