package rules

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

var update = flag.Bool("update", false, "write docs/operating/rules.md anew")

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// good are facts on which every rule holds.
func good() Facts {
	members := func() []MemberFacts {
		var out []MemberFacts
		for _, n := range []tidegate.NodeName{"dr1", "dr2", "dr3"} {
			out = append(out, MemberFacts{Node: n, InForce: true, Answers: new(true), Knows: new(true), Verified: new(true)})
		}
		return out
	}
	stream := func(name tidegate.StreamName) StreamFacts {
		return StreamFacts{
			Name: name, Writer: "epoch 3 of p1", Recorded: new(true), NeverWritten: new(false), Restored: new(false),
			Quorum: tidegate.Quorum{N: 3, W: 2}, Members: members(), TargetNamed: new(true), TargetHolds: new(false),
			GateHolds: new(true), GateText: "gate armed in mode sync", Lease: new(time.Duration(0)), Loss: &fence.LossStatement{Kind: fence.LossZero, Why: "the gate was armed in sync"},
			BeaconAge: new(time.Second), WriterSilent: new(time.Second), NoGap: new(true), Agree: new(true), Applies: new(true),
		}
	}
	return Facts{
		Service: ServiceFacts{Frozen: new(false), Armed: new(true), DrillAge: new(time.Hour)},
		Target:  TargetFacts{Node: "dr1", Registered: new(true), Agent: new(true), Healthy: new(true), DiskFree: new(int64(1 << 40)), DiskGrowth: new(1e6)},
		Streams: []StreamFacts{stream("a"), stream("b")},
	}
}

func refusing(vs []Verdict) []string {
	var out []string
	for _, v := range Failing(vs) {
		out = append(out, v.Rule)
	}
	return out
}

func TestGoodFactsHold(t *testing.T) {
	for _, a := range Actions() {
		vs := Evaluate(good(), Request{Action: a}, nil, noon)
		if got := refusing(vs); got != nil {
			t.Errorf("%s: %v refuse", a, got)
		}
		for _, v := range vs {
			if !v.Known || v.OverriddenBy != nil || v.Reason == "" {
				t.Errorf("%s: %+v", a, v)
			}
		}
	}
}

func TestNothingKnownRefusesEverything(t *testing.T) {
	for _, f := range []Facts{{}, {Streams: []StreamFacts{{Name: "a"}}}, {Streams: []StreamFacts{{Name: "a", Members: []MemberFacts{{}}}}}} {
		for _, a := range append(Actions(), "what") {
			for _, v := range Evaluate(f, Request{Action: a}, nil, noon) {
				if v.Holds || v.Reason == "" {
					t.Errorf("%s: %s holds=%v %q", a, v.Rule, v.Holds, v.Reason)
				}
			}
		}
	}
}

func TestEachRule(t *testing.T) {
	for _, c := range []struct {
		name   string
		action Action
		spoil  func(*Facts)
		rules  string // that refuse
		reason string
	}{
		{"frozen", Failover, func(f *Facts) { f.Service.Frozen, f.Service.FrozenWhy = new(true), "cables are moved" }, FreezeOff, "cables are moved"},
		{"disarmed", Switchover, func(f *Facts) { f.Service.Armed, f.Service.ArmedWhy = new(false), "dr is down" }, ArmSwitch, "dr is down"},
		{"no target", Failover, func(f *Facts) { f.Target = TargetFacts{} }, "target adopt-quorum adopt-quorum content-verified content-verified capacity", "name the target"},
		{"target is the writer", Switchover, func(f *Facts) { f.Streams[1].TargetHolds = new(true) }, Target, "b is active on dr1 already"},
		{"target is a stranger", Failover, func(f *Facts) { f.Streams[1].TargetNamed = new(false) }, Target, "not a member of b"},
		{"target is silent", Failover, func(f *Facts) { f.Streams[0].Members[0].Answers = new(false) }, "target adopt-quorum", "has not reported a lately"},
		{"no agent", Failover, func(f *Facts) { f.Target.Agent = new(false) }, Target, "not known to any gate"},
		{"no record", Failover, func(f *Facts) { f.Streams[0].Recorded = new(false) }, Record, "no epoch record"},
		{"one member is enough of three", Failover, func(f *Facts) { f.Streams[0].Members[2].Knows = new(false) }, "", ""},
		{"two are not", Failover, func(f *Facts) {
			f.Streams[0].Members[1].Knows, f.Streams[0].Members[2].Answers = new(false), new(false)
		}, "fence-quorum primary-fenced", "1 of 3 members"},
		{"planned takes W", Switchover, func(f *Facts) {
			f.Streams[0].Members[1].Knows, f.Streams[0].Members[2].Answers = new(false), new(false)
		}, "fence-quorum adopt-quorum", "want 2"},
		{"gate open", Failover, func(f *Facts) { f.Streams[0].GateHolds, f.Streams[0].GateText = new(false), "gate armed in mode open" }, PrimaryFenced, "could go on"},
		{"gate open with leases", Failover, func(f *Facts) {
			f.Streams[0].GateHolds, f.Streams[0].Lease = new(false), new(10*time.Second)
		}, "", ""},
		{"gate open with leases, too few to end them", Takeover, func(f *Facts) {
			f.Streams[0].GateHolds, f.Streams[0].Lease = new(false), new(10*time.Second)
			f.Streams[0].Members[1].Knows, f.Streams[0].Members[2].Answers = new(false), new(false)
		}, "fence-quorum primary-fenced", "1 of 3 members"},
		{"gate open, planned", Switchover, func(f *Facts) { f.Streams[0].GateHolds = new(false) }, "", ""},
		{"loss unknown", Auto, func(f *Facts) { f.Streams[0].Loss = &fence.LossStatement{Kind: fence.LossUnknown} }, RPOBound, "accepts 0 records"},
		{"loss bounded and accepted", Auto, func(f *Facts) {
			f.Streams[0].Loss = &fence.LossStatement{Kind: fence.LossAtMost, Bounds: tidegate.Bounds{Records: 10}}
			f.Service.MaxLoss = tidegate.Bounds{Records: 10}
		}, "", ""},
		{"loss bounded, too much", Auto, func(f *Facts) {
			f.Streams[0].Loss = &fence.LossStatement{Kind: fence.LossAtMost, Bounds: tidegate.Bounds{Records: 11}}
			f.Service.MaxLoss = tidegate.Bounds{Records: 10}
		}, RPOBound, "accepts 10 records"},
		{"restored", Failover, func(f *Facts) { f.Streams[0].Restored = new(true) }, RegistryTrusted, "gone back"},
		{"dead for an hour", Failover, func(f *Facts) {
			f.Streams[0].BeaconAge, f.Streams[0].WriterSilent = new(time.Hour), new(time.Hour-time.Second)
		}, "", ""},
		{"link was down before", Failover, func(f *Facts) {
			f.Streams[0].BeaconAge, f.Streams[0].WriterSilent = new(time.Hour), new(time.Minute)
		}, DatumFresh, "between them"},
		{"dead for an hour, nobody saw it die", Failover, func(f *Facts) {
			f.Streams[0].BeaconAge, f.Streams[0].WriterSilent = new(time.Hour), nil
		}, DatumFresh, "not known"},
		{"planned without beacons", Switchover, func(f *Facts) {
			f.Streams[0].BeaconAge, f.Streams[0].WriterSilent = new(time.Hour), new(time.Hour)
		}, DatumFresh, "want at most 10s"},
		{"applied not known", Switchover, func(f *Facts) { f.Streams[1].Applies = nil }, CaughtUp, "not connected"},
		{"applies nothing", Failback, func(f *Facts) { f.Streams[1].Applies = new(false) }, CaughtUp, "applies nothing"},
		{"a failover waits for the service", Failover, func(f *Facts) { f.Streams[1].Applies = nil }, "", ""},
		{"gap", Failover, func(f *Facts) { f.Streams[0].NoGap = new(false) }, NoGap, "missing"},
		{"target differs", Failover, func(f *Facts) { f.Streams[0].Members[0].Verified = new(false) }, ContentVerified, "not what the writer wrote"},
		{"others differ", Failover, func(f *Facts) { f.Streams[0].Agree, f.Streams[0].Differs = new(false), "dr2 and dr3 differ" }, ContentVerified, "dr2 and dr3"},
		{"disk full", Failover, func(f *Facts) { f.Target.DiskFree = new(int64(1)) }, Capacity, "1 bytes free"},
		{"disk fills", Failover, func(f *Facts) { f.Target.DiskGrowth = new(1e12) }, Capacity, "last for 0.0 h"},
		{"disk growth not measured", Failover, func(f *Facts) { f.Target.DiskGrowth = nil }, Capacity, "takes a minute"},
		{"target reports an error", Failover, func(f *Facts) { f.Target.Healthy, f.Target.HealthWhy = new(false), "apply stopped" }, Capacity, "apply stopped"},
		{"old drill", Failover, func(f *Facts) { f.Service.DrillAge = new(30 * 24 * time.Hour) }, DrillFresh, "720h"},
		{"never written", Failover, func(f *Facts) {
			f.Streams[0] = StreamFacts{
				Name: "a", Recorded: new(true), NeverWritten: new(true), Restored: new(false), Quorum: f.Streams[0].Quorum, Members: f.Streams[0].Members,
				TargetNamed: new(true), TargetHolds: new(false), Loss: &fence.LossStatement{Kind: fence.LossZero},
			}
		}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := good()
			c.spoil(&f)
			vs := Failing(Evaluate(f, Request{Action: c.action}, nil, noon))
			if got := strings.Join(refusing(vs), " "); got != c.rules {
				t.Errorf("got %q refuse, want %q", got, c.rules)
			}
			for _, v := range vs[:min(1, len(vs))] {
				if !strings.Contains(v.Reason, c.reason) {
					t.Errorf("%s says %q, want ...%s...", v.Rule, v.Reason, c.reason)
				}
			}
		})
	}
}

func TestOverrides(t *testing.T) {
	spoiled := func() Facts {
		f := good()
		f.Service.Frozen, f.Service.Armed, f.Service.DrillAge = new(true), new(false), nil
		f.Streams = f.Streams[:1]
		f.Streams[0].Loss, f.Streams[0].GateHolds = nil, new(false)
		return f
	}
	over := func(rule string, left time.Duration) Override {
		return Override{Rule: rule, Reason: "r", Actor: "operator/o", Expires: noon.Add(left)}
	}
	all := "freeze-off arm-switch primary-fenced rpo-bound drill-fresh"
	for _, c := range []struct {
		name string
		q    Request
		o    []Override
		want string
	}{
		{"none", Request{Action: Failover}, nil, all},
		{"named", Request{Action: Failover}, []Override{over(DrillFresh, 1)}, "freeze-off arm-switch primary-fenced rpo-bound"},
		{"expired at this instant", Request{Action: Failover}, []Override{over(DrillFresh, 0)}, all},
		{"never freeze, nor what has a flag only", Request{Action: Failover}, []Override{over(FreezeOff, 1), over(Target, 1), over(RPOBound, 1), over(PrimaryFenced, 1), over("*", 1), over("", 1)}, all},
		{"flags", Request{Action: Takeover, AcceptLoss: true, Attest: true}, nil, "freeze-off arm-switch drill-fresh"},
		{"flags mean nothing by itself", Request{Action: Auto, AcceptLoss: true, Attest: true}, nil, all},
		{"flags mean nothing to a planned change", Request{Action: Switchover, AcceptLoss: true, Attest: true}, nil, "freeze-off arm-switch drill-fresh"},
		{"an operator's override counts for the detector", Request{Action: Auto}, []Override{over(ArmSwitch, 1), over(DrillFresh, 1)}, "freeze-off primary-fenced rpo-bound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vs := Evaluate(spoiled(), c.q, c.o, noon)
			if got := strings.Join(refusing(vs), " "); got != c.want {
				t.Errorf("got %q refuse, want %q", got, c.want)
			}
			for _, v := range vs {
				if v.OverriddenBy != nil && (v.OverriddenBy.Rule != v.Rule || !v.Holds) {
					t.Errorf("%+v", v)
				}
			}
		})
	}
}

func TestOverrideValidate(t *testing.T) {
	ok := Override{Rule: DrillFresh, Reason: "none yet", Actor: "operator/o", Expires: noon.Add(time.Hour)}
	for _, c := range []struct {
		name   string
		change func(*Override)
		want   string
	}{
		{"good", func(*Override) {}, ""},
		{"freeze", func(o *Override) { o.Rule = FreezeOff }, "cannot be overridden by name: allow role changes again"},
		{"target", func(o *Override) { o.Rule = Target }, "cannot be overridden"},
		{"unknown", func(o *Override) { o.Rule = "all" }, "want one of arm-switch, capacity"},
		{"no reason", func(o *Override) { o.Reason = "  " }, "reason"},
		{"nobody", func(o *Override) { o.Actor = "" }, "actor"},
		{"expired", func(o *Override) { o.Expires = noon }, "expires in 0s"},
		{"for ever", func(o *Override) { o.Expires = noon.Add(25 * time.Hour) }, "at most 24h"},
	} {
		o := ok
		c.change(&o)
		if err := o.Validate(noon); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestAgreement(t *testing.T) {
	a, b := tidegate.Chain{1}, tidegate.Chain{2}
	for _, c := range []struct {
		name  string
		tails []Tail
		want  string
	}{
		{"none", nil, ""},
		{"equal", []Tail{{"n1", 3, 9, a, false}, {"n2", 3, 9, a, false}}, ""},
		{"other lengths", []Tail{{"n1", 3, 9, a, false}, {"n2", 3, 8, b, false}}, ""},
		{"differ", []Tail{{"n1", 3, 9, a, false}, {"n2", 3, 9, b, false}}, "n1 and n2 differ"},
		{"an older epoch's tail", []Tail{{"n1", 3, 9, a, false}, {"n2", 2, 9, b, false}}, ""},
		{"distrusted", []Tail{{"n1", 3, 9, a, false}, {"n2", 3, 8, b, true}}, "n2 contradicts the writer"},
	} {
		agree, why := Agreement(c.tails)
		if agree != (c.want == "") || !strings.Contains(why, c.want) {
			t.Errorf("%s: %v %q", c.name, agree, why)
		}
	}
}

func TestEveryRuleIsAnswered(t *testing.T) {
	for _, r := range Rules() {
		if (serviceRules[r.Name] == nil) == (streamRules[r.Name] == nil) {
			t.Errorf("%s: want it answered in exactly one place", r.Name)
		}
		if r.Asks == "" || r.Evidence == "" || r.Instead == "" || len(r.Actions) == 0 {
			t.Errorf("%s: not documented", r.Name)
		}
	}
	if n := len(serviceRules) + len(streamRules); n != len(Rules()) {
		t.Errorf("%d answers for %d rules", n, len(Rules()))
	}
	for _, name := range []string{FreezeOff, Target} {
		if r, _ := Lookup(name); r.ByName || r.Flag != "" {
			t.Errorf("%s can be overridden", name)
		}
	}
}

// TestKnowingLessNeverHelps takes facts away, each alone and then several: a rule
// that does not hold never holds afterwards.
func TestKnowingLessNeverHelps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFacts(t)
		q := Request{Action: rapid.SampledFrom(Actions()).Draw(t, "action"), AcceptLoss: rapid.Bool().Draw(t, "accept"), Attest: rapid.Bool().Draw(t, "attest")}
		before := holding(Evaluate(f, q, nil, noon))
		compare := func(what string) {
			after := holding(Evaluate(f, q, nil, noon))
			for k, holds := range after {
				if was, asked := before[k]; holds && asked && !was {
					t.Fatalf("%s holds without %s", k, what)
				}
			}
		}
		every := removals(&f)
		for _, r := range every {
			restore := r.remove()
			compare(r.what)
			restore()
		}
		for range 5 {
			r := every[rapid.IntRange(0, len(every)-1).Draw(t, "forget")]
			r.remove()
			compare(r.what)
			before = holding(Evaluate(f, q, nil, noon))
		}
	})
}

func holding(vs []Verdict) map[string]bool {
	out := map[string]bool{}
	for _, v := range vs {
		out[v.Rule+" "+string(v.Stream)] = v.Holds
	}
	return out
}

// anyFacts draws facts that are mostly good, so that single ones decide.
func anyFacts(t *rapid.T) Facts {
	f := good()
	flags := facts(reflect.ValueOf(&f).Elem(), nil)
	for i, p := range flags {
		if rapid.IntRange(0, 5).Draw(t, fmt.Sprint("spoil", i)) != 0 {
			continue
		}
		switch v := p.Interface().(type) {
		case *bool:
			*v = !*v
		case *time.Duration:
			*v = time.Duration(rapid.Int64Range(-1, int64(time.Hour)).Draw(t, "age"))
		case *int64:
			*v = rapid.Int64Range(-1, 1<<40).Draw(t, "bytes")
		case *float64:
			*v = rapid.Float64Range(-1e12, 1e12).Draw(t, "rate")
		case *fence.LossStatement:
			v.Kind = rapid.SampledFrom([]fence.LossKind{fence.LossZero, fence.LossAtMost, fence.LossUnknown, ""}).Draw(t, "kind")
			v.Bounds.Records = rapid.Int64Range(0, 20).Draw(t, "records")
		}
	}
	f.Service.MaxLoss.Records = rapid.Int64Range(0, 20).Draw(t, "max loss")
	return f
}

// facts lists every pointer that is not nil.
func facts(v reflect.Value, out []reflect.Value) []reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out = append(out, v)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			out = facts(v.Field(i), out)
		}
	case reflect.Slice:
		for i := range v.Len() {
			out = facts(v.Index(i), out)
		}
	default:
	}
	return out
}

// removal takes one fact away and returns how to put it back.
type removal struct {
	what   string
	remove func() (restore func())
}

// removals are all the ways to know one thing less: a pointer becomes nil, a
// member is not known of, or the configuration, or what may be lost, is not.
func removals(f *Facts) []removal {
	var out []removal
	for i, p := range facts(reflect.ValueOf(f).Elem(), nil) {
		out = append(out, removal{fmt.Sprintf("fact %d (%s)", i, p.Type()), func() func() {
			old := reflect.ValueOf(p.Interface())
			p.SetZero()
			return func() { p.Set(old) }
		}})
	}
	for i := range f.Streams {
		s := &f.Streams[i]
		for _, m := range s.Members {
			out = append(out, removal{"member " + string(m.Node), func() func() {
				old := s.Members
				s.Members = slices.DeleteFunc(slices.Clone(old), func(x MemberFacts) bool { return x.Node == m.Node })
				return func() { s.Members = old }
			}})
		}
		out = append(out, removal{"the configuration", func() func() {
			old := s.Quorum
			s.Quorum = tidegate.Quorum{}
			return func() { s.Quorum = old }
		}})
	}
	return append(out, removal{"what may be lost", func() func() {
		old := f.Service.MaxLoss
		f.Service.MaxLoss = tidegate.Bounds{}
		return func() { f.Service.MaxLoss = old }
	}})
}

func TestDocument(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "operating", "rules.md")
	want := document()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what this package does: go test ./gating/rules -update", path)
	}
}

func document() string {
	var b strings.Builder
	b.WriteString(`# The rules of a change of role

Before a service changes its writer, the gate asks every rule below that the action needs. Rules fail
closed: what is not known does not hold. A refusal names each rule that does not hold, with what it looked
at; nothing has changed then, and the exit code is 4. ` + "`tidegate gate explain SERVICE`" + ` asks without changing
anything. This page is printed from the code (` + "`go test ./gating/rules -update`" + `).

| action | command | what it is |
|---|---|---|
| failover | ` + "`tidegate failover`" + ` | the primary is lost, or treated as lost; within the loss that was accepted |
| takeover | ` + "`tidegate takeover`" + ` | a failover without a fence quorum: loss is unknown |
| switchover | ` + "`tidegate switchover`" + ` | planned: the writer drains and hands over, nothing is lost |
| failback | ` + "`tidegate failback`" + ` | a switchover to the site that was primary before |
| auto | the detector, in mode auto | a failover with nobody watching |

## Which action needs which rule

`)
	b.WriteString("| rule |")
	for _, a := range Actions() {
		fmt.Fprintf(&b, " %s |", a)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(Actions())) + "\n")
	for _, r := range Rules() {
		fmt.Fprintf(&b, "| %s |", r.Name)
		for _, a := range Actions() {
			fmt.Fprintf(&b, " %s |", map[bool]string{true: "yes", false: "-"}[r.Applies(a)])
		}
		b.WriteString("\n")
	}
	b.WriteString("\n## What each rule asks\n\n| rule | holds if | looks at | go on against it with | otherwise |\n|---|---|---|---|---|\n")
	for _, r := range Rules() {
		var how []string
		if r.Flag != "" {
			how = append(how, "`"+r.Flag+"`")
		}
		if r.ByName {
			how = append(how, "`--override "+r.Name+"=REASON`")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Name, r.Asks, r.Evidence, orElse(strings.Join(how, " or "), "nothing"), r.Instead)
	}
	l := Limits{}.SetDefaults()
	fmt.Fprintf(&b, `
Limits: datum-fresh %s; capacity %s at the measured rate and %d MiB in any case; drill-fresh %s unless
the service's drill policy says otherwise.

## Overrides

An override names one rule of one service, says why, and expires: after %s, or as `+"`--expires`"+` says, at
most %s. It is kept in the registry and audited, counts for every change of role of the service while it is
in force, also for one that the detector begins, and can be taken back before. A freeze cannot be
overridden: thaw it. Nor can the target: name another one.

One comes with the change of role that it is for (`+"`--override RULE=REASON`"+`), or is given by itself, for what
the detector may begin while nobody watches:

    tidegate override set SERVICE --rule drill-fresh --rule capacity --reason "ticket 4711" --expires 8h
    tidegate override list --service SERVICE
    tidegate override revoke SERVICE/capacity --reason "room was made"

`+"`--rule`"+` may be given more than once; all are written down or none, and one that is in force against the same
rule is replaced. A detector in mode `+"`auto`"+` acts only while every rule holds or is overridden: without a drill's
evidence it needs an override of drill-fresh that has not expired.

The flags `+"`--accept-loss` and `--attest-primary-down`"+` belong to one request. They mean nothing to a planned
change, which loses nothing, and the detector never gives them.

A service that was never drilled has no evidence: drill-fresh is unknown then, and refuses every change of role
until it is overridden; the override says on the record that the change was not rehearsed. So it is while the only
drills that passed promoted nothing: level L0, and the scenarios of L3 whose fault is ridden out.
`, l.DatumAge, l.DiskLasts, l.DiskFree>>20, days(l.DrillAge), OverrideTTL, OverrideTTLMax)
	return b.String()
}

func days(d time.Duration) string { return fmt.Sprintf("%d days", int(d.Hours()/24)) }
