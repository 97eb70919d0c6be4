package rules

import (
	"slices"

	"github.com/tidegate/tidegate/gating/fence"
)

// Action is a change of role as asked for.
type Action string

// The actions.
const (
	Failover   Action = "failover"   // the primary is lost, or treated as lost; within the loss that was accepted
	Takeover   Action = "takeover"   // as failover, but a standby that cannot prove its log may win: loss unknown
	Switchover Action = "switchover" // planned: the writer drains and hands over, nothing is lost
	Failback   Action = "failback"   // a switchover to the site that was primary before
	Auto       Action = "auto"       // a failover that the detector asks for, with nobody watching
)

// Actions lists all actions, in the order they are documented.
func Actions() []Action { return []Action{Failover, Takeover, Switchover, Failback, Auto} }

// Planned reports whether the writer itself hands over.
func (a Action) Planned() bool { return a == Switchover || a == Failback }

// The rules. Names that a plan refuses by are package fence's.
const (
	FreezeOff       = "freeze-off"
	ArmSwitch       = "arm-switch"
	Target          = fence.RuleTarget
	Record          = fence.RuleRecord
	FenceQuorum     = fence.RuleFenceQuorum
	AdoptQuorum     = fence.RuleAdoptQuorum
	PrimaryFenced   = fence.RulePrimaryFence
	RPOBound        = fence.RuleRPOBound
	DatumFresh      = "datum-fresh"
	CaughtUp        = "caught-up"
	NoGap           = "no-gap"
	ContentVerified = "content-verified"
	Capacity        = "capacity"
	DrillFresh      = "drill-fresh"
	RegistryTrusted = "registry-trusted"
)

// Flags of a request that a rule can be met with.
const (
	FlagAcceptLoss = "--accept-loss"
	FlagAttest     = "--attest-primary-down"
)

// Rule is one line of the table: documentation and policy, no code.
type Rule struct {
	Name     string
	Asks     string   // what it wants to be true
	Evidence string   // what it looks at
	Actions  []Action // that need it
	Flag     string   // of the request that goes on against it; "" for none
	ByName   bool     // may be overridden by `--override NAME=REASON`
	Instead  string   // what to do about a rule that does not hold
}

// named reports whether an operator may override the rule by its name.
func (r Rule) named() bool { return r.ByName }

// Applies reports whether an action needs the rule.
func (r Rule) Applies(a Action) bool { return slices.Contains(r.Actions, a) }

// How returns how an operator may go on against the rule; "" for not at all.
func (r Rule) How(a Action) string {
	switch {
	case r.Flag != "" && !a.Planned() && a != Auto:
		return r.Flag
	case r.ByName:
		return "--override " + r.Name + "=REASON"
	}
	return ""
}

// Lookup finds a rule by its name.
func Lookup(name string) (Rule, bool) {
	for _, r := range Rules() {
		if r.Name == name {
			return r, true
		}
	}
	return Rule{}, false
}

// Rules is the table, in the order rules are shown.
func Rules() []Rule {
	all := Actions()
	lossy := []Action{Failover, Takeover, Auto}
	return []Rule{
		{
			Name: FreezeOff, Asks: "role changes of the service are not frozen", Evidence: "the service's record in the registry",
			Actions: all, Instead: "allow role changes again with `tidegate gate thaw`",
		},
		{
			Name: ArmSwitch, Asks: "the service's arm switch is on: nobody has let the primary run unprotected with `tidegate gate open`",
			Evidence: "the service's record in the registry", Actions: all, ByName: true, Instead: "arm the gate again with `tidegate gate arm`",
		},
		{
			Name: RegistryTrusted, Asks: "the registry has not gone back in time since a live writer last armed the gate",
			Evidence: "the stream's epoch record, promises that nodes report, this gate's mark", Actions: all, Flag: FlagAcceptLoss, ByName: true,
			Instead: "let the live writer arm the gate again, or find out what the restored backup lacks",
		},
		{
			Name: Target, Asks: "the target is a registered standby node and a member of every stream, it reports, its agent is known, and the streams are not active on it already",
			Evidence: "registered nodes, the streams' members, reports, the epoch record", Actions: all,
			Instead: "name another --target: `tidegate status` lists the standby nodes and their agents; where the service is active already its agent acquires by itself",
		},
		{
			Name: Record, Asks: "every stream has a readable epoch record; one that never had a writer opens with an empty log",
			Evidence: "the stream's epoch record", Actions: all,
			Instead: "add the stream again, take it out of the service with `tidegate streams remove`, or `tidegate gate rebuild` the registry",
		},
		{
			Name: FenceQuorum, Asks: "R = N-W+1 members answer that know what they had",
			Evidence: "members' reports: age, incarnation, limbo", Actions: all, Flag: FlagAcceptLoss,
			Instead: "bring members back",
		},
		{
			Name: AdoptQuorum, Asks: "a member can take the chosen log, the target among them; for a planned change W of them",
			Evidence: "members' reports", Actions: all,
			Instead: "name a --target that is a member of every stream and answers, or bring members back",
		},
		{
			Name: PrimaryFenced, Asks: "the old writer is cut off from all but W - 1 members, and stops by itself then: its gate is armed with bounds, or it lives on output leases",
			Evidence: "members' reports; the gate's part of the epoch record", Actions: lossy, Flag: FlagAttest,
			Instead: "power the old primary off and attest it",
		},
		{
			Name: RPOBound, Asks: "what may be lost is within what the service accepts without being asked",
			Evidence: "the gate's part of the epoch record, members that answer, the service's max_loss or rpo", Actions: lossy, Flag: FlagAcceptLoss,
			Instead: "look at the loss that the plan predicts",
		},
		{
			Name: DatumFresh, Asks: "the standby side's newest word from the writer is not old: for a planned change at all, else compared with the writer's last sign of life",
			Evidence: "age of the newest beacon at a member; age of the writer's last report, good synthetic write or good sight from another gate",
			Actions:  all, ByName: true, Instead: "find out for how long the link to the standby site had been down",
		},
		{
			Name: CaughtUp, Asks: "the target's service is connected to its standby node, and says how far it has applied: for a planned change, whose clients wait until it has applied all",
			Evidence: "the target's report", Actions: []Action{Switchover, Failback},
			Instead: "wait until the node has the log and its service has applied it, as `tidegate status` shows; start the service beside it if it does not run",
		},
		{
			Name: NoGap, Asks: "no stretch of the source's log is missing at the target",
			Evidence: "the target's report; what the agent beside the source says of its log", Actions: all, ByName: true,
			Instead: "look at the stream's error in `tidegate status`; where the source has lost its log, `tidegate gap accept`",
		},
		{
			Name: ContentVerified, Asks: "the target holds what the writer wrote: it adopted the writer's epoch, which proves its log by its chain, and reports no error; no two members differ at one batch, and the writer distrusts none that answers",
			Evidence: "members' reports: history, durable end with its chain, limbo, errors; the writer's last report", Actions: all, ByName: true,
			Instead: "look at the members in `tidegate status`; `tidegate doctor` names what to repair",
		},
		{
			Name: Capacity, Asks: "the target's disk lasts for a while at the rate it fills, and none of its streams reports an error",
			Evidence: "the target's report: free bytes, growth (measured a minute after its start), errors", Actions: all, ByName: true,
			Instead: "make room on the target, or name another one",
		},
		{
			Name: DrillFresh, Asks: "a drill of this service has passed lately",
			Evidence: "the newest signed report of a passed drill on record that measured a promotion", Actions: all, ByName: true,
			Instead: "rehearse with `tidegate drill run`; `tidegate status` shows the newest drill on record",
		},
	}
}
