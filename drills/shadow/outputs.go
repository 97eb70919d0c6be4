package shadow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/internal/config"
)

// Limits of outputs.
const (
	outputsBytesMax = 256 << 20 // of one answer
	outputsAgain    = 50 * time.Millisecond
)

// Recovery says which recovery type the service needs and which one its making lets
// expect, and how its outputs are asked for.
type Recovery struct {
	Required string            `yaml:"required"` // precise, repeating, convergent, divergent, gap-ok; "": nothing is
	Approach recovery.Approach `yaml:"approach"` // what is kept of it: docs/operating/recovery-types.md
	Class    recovery.Class    `yaml:"class"`    // of the whole pipeline

	IDs          bool `yaml:"ids"` // as in [recovery.Setup]
	Gate         bool `yaml:"gate"`
	Dedup        bool `yaml:"dedup"`
	Determinants bool `yaml:"determinants"`

	Outputs Outputs `yaml:"outputs"`
}

// Outputs says how the drill comes by the outputs of the service, JSON lines as
// [recovery.ParseOutputs] reads them.
type Outputs struct {
	Before *probe.Ask `yaml:"before"` // what receivers have, asked before t0; what lies behind the cut is left out
	After  *probe.Ask `yaml:"after"`  // what the clone has put out since its promotion, in that order
	// Golden is what comes of the clone's inputs when they are executed once more, without
	// a stop and without a promotion; nil: such an execution is not possible.
	Golden *probe.Ask `yaml:"golden"`

	Volatile []string      `yaml:"volatile"` // fields that are meant to differ, by their paths
	TailMin  int           `yaml:"tail_min"` // outputs after the takeover without which nothing is claimed; default 10
	Horizon  time.Duration `yaml:"horizon"`  // how long the clone is asked again while its outputs are not right yet; default 5s
}

func (c *Recovery) withDefaults() *Recovery {
	if c == nil {
		return nil
	}
	out := *c
	o := &out.Outputs
	setDefault(&o.TailMin, 10)
	setDefault(&o.Horizon, 5*time.Second)
	for _, a := range []**probe.Ask{&o.Before, &o.After, &o.Golden} {
		if *a != nil {
			*a = new((*a).WithDefaults())
		}
	}
	return &out
}

func (c *Recovery) validate() error {
	if c == nil {
		return nil
	}
	o := c.Outputs
	errs := []error{config.AtLeast("outputs.tail_min", o.TailMin, 1), config.AtLeast("outputs.horizon", o.Horizon, 0)}
	if _, err := recovery.ParseRequired(c.Required); err != nil {
		errs = append(errs, config.Broken("required", "want precise, repeating, convergent, divergent or gap-ok", c.Required))
	}
	for _, named := range []struct {
		path string
		ask  *probe.Ask
		must bool
	}{{"outputs.before", o.Before, true}, {"outputs.after", o.After, true}, {"outputs.golden", o.Golden, false}} {
		switch {
		case named.ask == nil && named.must:
			errs = append(errs, config.Broken(named.path, "want http or command: without outputs there is nothing to tell a type from", "none"))
		case named.ask == nil:
		case named.ask.SQL != nil:
			errs = append(errs, config.Broken(named.path, "want http or command: outputs are JSON lines", "sql"))
		default:
			errs = append(errs, config.Under(named.path, rules.Ask(named.ask)))
		}
	}
	return errors.Join(errs...)
}

func (c *Recovery) asks() (all []probe.Ask) {
	if c == nil {
		return nil
	}
	for _, a := range []*probe.Ask{c.Outputs.Before, c.Outputs.After, c.Outputs.Golden} {
		if a != nil {
			all = append(all, *a)
		}
	}
	return all
}

func (c *Recovery) setup() recovery.Setup {
	return recovery.Setup{Approach: c.Approach, Class: c.Class, IDs: c.IDs, Gate: c.Gate, Dedup: c.Dedup, Determinants: c.Determinants}
}

// typing is what a drill knows of the recovery type.
type typing struct {
	before  []recovery.Output
	unknown string // why there is nothing to tell it from; "": there is
	result  *recovery.Result
	checks  []evidence.Check
}

// outputs asks for outputs, and writes down what came of it.
func (r *run) outputs(ctx context.Context, name string, a *probe.Ask) ([]recovery.Output, evidence.Check) {
	began := r.d.clk.Boot()
	c := evidence.Check{Name: "outputs " + name, Kind: "outputs", Wanted: a.Wanted(), Outcome: evidence.CheckPassed}
	text, err := r.asker.Read(ctx, a, outputsBytesMax)
	var out []recovery.Output
	if err == nil {
		out, err = recovery.ParseOutputs(text, r.d.cfg.Recovery.Outputs.Volatile...)
	}
	took := time.Duration(r.d.clk.Boot() - began)
	c.Took = &took
	if err != nil {
		c.Outcome, c.Why = evidence.CheckUnknown, evidence.Sentence(err)
		return nil, c
	}
	c.Got = new(fmt.Sprintf("%d outputs", len(out)))
	return out, c
}

// outputsBefore asks what receivers have, before t0.
func (r *run) outputsBefore(ctx context.Context) {
	if r.d.cfg.Recovery == nil {
		return
	}
	out, c := r.outputs(ctx, "before", r.d.cfg.Recovery.Outputs.Before)
	r.typing.before = out
	r.typing.checks = append(r.typing.checks, c)
	if c.Why != "" {
		r.typing.unknown = "what receivers had is not known"
	}
}

// outputsAfter asks what the clone has put out and what was due, again and again until
// that fits together or the horizon has come, and tells the type.
func (r *run) outputsAfter(ctx context.Context) {
	c := r.d.cfg.Recovery
	if c == nil || r.typing.unknown != "" {
		return
	}
	verify, _ := r.course.Phase(Verify)
	began := r.d.clk.Boot()
	for {
		checks, settled := r.classify(ctx, func() time.Duration { return verify + time.Duration(r.d.clk.Boot()-began) })
		if settled || ctx.Err() != nil || time.Duration(r.d.clk.Boot()-began) >= c.Outputs.Horizon {
			r.typing.checks = append(r.typing.checks, checks...)
			return
		}
		select {
		case <-time.After(outputsAgain):
		case <-ctx.Done():
		}
	}
}

// classify asks once and tells the type. It is settled when more outputs would not change
// it for the better.
func (r *run) classify(ctx context.Context, horizon func() time.Duration) (checks []evidence.Check, settled bool) {
	c := r.d.cfg.Recovery
	r.typing.result, r.typing.unknown = nil, ""
	after, check := r.outputs(ctx, "after", c.Outputs.After)
	if checks = append(checks, check); check.Why != "" {
		r.typing.unknown = "what the clone has put out is not known"
		return checks, false
	}
	e := recovery.Evidence{Terms: recovery.Terms{Epoch: epochOf(r.began), MinTail: c.Outputs.TailMin, Horizon: horizon()}}
	var due []recovery.Output
	if c.Outputs.Golden != nil {
		due, check = r.outputs(ctx, "golden", c.Outputs.Golden)
		if checks = append(checks, check); check.Why != "" {
			r.typing.unknown = "what was due is not known"
			return checks, false
		}
		e.Golden = &recovery.Golden{Outputs: due, Content: true}
	}
	cuts, doubts := r.cuts(), []string(nil)
	if c.Outputs.Golden != nil {
		doubts = unaccounted(slices.Concat(r.typing.before, after), due, r.firsts(), cuts)
		leaveOut(cuts, due)
	}
	e.Before, e.After = recovery.Between(r.typing.before, due, cuts), recovery.Between(after, due, nil)
	if left := len(r.typing.before) - len(e.Before) + len(after) - len(e.After); left > 0 {
		checks[0].Got = new(fmt.Sprintf("%s; %d of before and after lie where nothing can be compared, and are left out", *checks[0].Got, left))
	}
	result, err := recovery.Classify(e)
	if err != nil {
		r.typing.unknown = evidence.Sentence(err)
		return checks, false
	}
	result = doubt(result, doubts)
	r.typing.result = &result
	return checks, result.Type >= recovery.Convergent && !slices.ContainsFunc(result.Streams, pending)
}

func pending(v recovery.Vector) bool { return v.Pending != nil && *v.Pending > 0 }

// cuts are where the streams were cut: outputs of inputs from there on were not before the
// failure that is rehearsed.
func (r *run) cuts() map[tidegate.StreamName]tidegate.Position {
	cuts := map[tidegate.StreamName]tidegate.Position{}
	for _, s := range r.twin.streams() {
		name := s.Name
		if s.Cut == nil {
			continue
		}
		cuts[name] = *s.Cut
	}
	return cuts
}

// leaveOut cuts a stream in which nothing is due at its beginning: there is nothing to
// compare it with.
func leaveOut(cuts map[tidegate.StreamName]tidegate.Position, due []recovery.Output) {
	for name := range cuts {
		if !slices.ContainsFunc(due, func(o recovery.Output) bool { return o.ID.Stream == name }) {
			cuts[name] = 0
		}
	}
}

// firsts are where the logs begin that the streams' services were fed; a stream whose
// twin was not fed one has none.
func (r *run) firsts() map[tidegate.StreamName]tidegate.Position {
	f, is := r.twin.(*fed)
	if !is || f.clone == nil {
		return nil
	}
	return f.clone.firsts()
}

// unaccounted says of which streams the golden leaves out, at its beginning or as a whole,
// what was put out of inputs that the clone was fed: from where its base ends to the cut.
// One that begins late and one that has lost a stream look the same.
func unaccounted(out, due []recovery.Output, firsts, cuts map[tidegate.StreamName]tidegate.Position) (why []string) {
	begins := map[tidegate.StreamName]tidegate.Position{}
	for _, o := range due {
		if at, is := begins[o.ID.Stream]; !is || o.ID.Input < at {
			begins[o.ID.Stream] = o.ID.Input
		}
	}
	count := map[tidegate.StreamName]int{}
	for _, o := range out {
		name := o.ID.Stream
		cut, fed := cuts[name]
		begin, is := begins[name]
		if fed && o.ID.Input >= firsts[name] && o.ID.Input < cut && (!is || o.ID.Input < begin) {
			count[name]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(count)) {
		why = append(why, fmt.Sprintf("stream %s: %d outputs of before and after are of inputs that the clone was fed, and the golden does not reach back to them: whether they are due is not known",
			name, count[name]))
	}
	return why
}

// doubt takes back a type for which not all was compared; a gap stays one.
func doubt(r recovery.Result, why []string) recovery.Result {
	if len(why) == 0 || r.Type == recovery.Gap {
		return r
	}
	if r.AtBest == recovery.Precise {
		r.AtBest = recovery.Unknown
	}
	r.Type, r.Reasons = recovery.Unknown, slices.Concat(r.Reasons, why)
	return r
}

// recoveryType is what the report says of it.
func (r *run) recoveryType() (out evidence.Recovery) {
	c := r.d.cfg.Recovery
	if c == nil {
		return out
	}
	seen := recovery.Result{}
	if r.typing.result != nil {
		seen = *r.typing.result
	}
	required, _ := recovery.ParseRequired(c.Required) // it was validated
	predicted := recovery.Expected(c.setup())
	compared := recovery.Compare(predicted, required, seen)
	if c.Required != "" {
		out.Required = &c.Required
	}
	out.Predicted, out.Observed = word(predicted), word(seen.Type)
	out.Approach, out.Class = word(c.Approach), word(c.Class)
	out.Outcome, out.Reasons = new(string(compared.Outcome)), slices.Concat(compared.Reasons, seen.Reasons)
	switch {
	case r.typing.unknown != "":
		out.Reasons = append(out.Reasons, r.typing.unknown)
	case r.typing.result == nil:
		out.Reasons = append(out.Reasons, "the drill ended before the outputs of the clone were asked for")
	default:
		out.Vector, _ = json.Marshal(seen) // its types always can
		out.Reasons = append(out.Reasons, fmt.Sprintf("observed: %s", seen))
	}
	return out
}

// word is v as text; nil where it says that it is not known.
func word[T interface {
	comparable
	String() string
}](v T) *string {
	var unknown T
	if v == unknown {
		return nil
	}
	return new(v.String())
}
