package shadow

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/recovery"
)

// LintScenario is what a drill of level L0 plays.
const LintScenario = "plan-lint"

// kindLint is a question about the plan that nothing was recovered for.
const kindLint = "lint"

// Lint is a drill of level L0: it looks whether one of level L1 could begin, and would tell
// what it is there for, as far as that shows without one. It makes and removes nothing, is
// done within seconds, and recovers nothing: its pass is no pass of a recovery.
func (d *Drill) Lint(ctx context.Context) Result {
	began := d.clk.Wall()
	p, err := d.Plan(ctx)
	r := run{d: d, began: began, lag: newLag(&d.cfg, d.src.Protection()), isolation: p.Isolation, leftOvers: p.LeftOvers}
	out := r.result()
	rep := &out.Report
	rep.Level, rep.Scenario, rep.Phases, rep.Lag = evidence.L0, LintScenario, []evidence.Phase{}, evidence.Lag{}
	rep.Checks, rep.Recovery = []evidence.Check{}, evidence.Recovery{} // of a drill that has run
	switch {
	case ctx.Err() != nil:
		out.interrupted = append(out.interrupted, calledOff)
		return out
	case err != nil:
		p.Refused = append(p.Refused, evidence.Sentence(err))
	}
	rep.Checks = append(rep.Checks, lint("begins", "a drill could begin now", strings.Join(p.Refused, "; ")))
	if err != nil {
		return out // what the node does not say was not looked at
	}
	rep.Checks = append(rep.Checks, lint("space", "the scratch directory's file system has room to begin with", d.lacksRoom()))
	rep.Checks = append(rep.Checks, d.lintPrograms()...)
	for i := range p.Streams {
		if s := &p.Streams[i]; !p.Postgres {
			c := lint("digest "+s.ID.String(), "the live standby's service says the digest of its state", "")
			if s.Digest == nil {
				c.Outcome, c.Why = evidence.CheckUnknown, "it says none: a drill would compare nothing"
			}
			rep.Checks = append(rep.Checks, c)
		}
	}
	if c := d.cfg.Recovery; c != nil && c.Required != "" {
		rep.Checks = append(rep.Checks, d.lintType())
	}
	return out
}

// lint is a check of the plan; why is what is wrong with it, empty for nothing.
func lint(name, wanted, why string) evidence.Check {
	c := evidence.Check{Name: name, Kind: kindLint, Wanted: wanted, Outcome: evidence.CheckPassed}
	if why != "" {
		c.Outcome, c.Why = evidence.CheckFailed, why
	}
	return c
}

func (d *Drill) lacksRoom() string {
	dir := d.cfg.Scratch
	for { // a drill makes what is not there
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	s := spaceOf(d.fs, dir, d.cfg.Live)
	if err := s.need(0); err != nil {
		return evidence.Sentence(err)
	}
	return ""
}

// lintPrograms looks for each program that a drill would start.
func (d *Drill) lintPrograms() (all []evidence.Check) {
	var paths []string
	if d.cfg.Postgres == nil {
		paths = append(paths, d.cfg.Program.Follow[0])
	}
	for _, a := range d.cfg.asks() {
		if a.Command != nil {
			paths = append(paths, a.Command.Run[0])
		}
	}
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		why := ""
		switch st, err := os.Stat(path); {
		case err != nil:
			why = evidence.Sentence(err)
		case st.IsDir() || st.Mode()&0o111 == 0:
			why = "it is not a program"
		}
		all = append(all, lint("program "+path, "it is there, and may be executed", why))
	}
	return all
}

// lintType holds what the set-up lets expect against what is required.
func (d *Drill) lintType() evidence.Check {
	required, _ := recovery.ParseRequired(d.cfg.Recovery.Required) // it was validated
	predicted := recovery.Expected(d.cfg.Recovery.setup())
	c := lint("recovery-type", fmt.Sprintf("%s or better is to be expected", d.cfg.Recovery.Required), "")
	c.Got = new(predicted.String())
	switch {
	case predicted == recovery.Unknown:
		c.Outcome, c.Why = evidence.CheckUnknown, "approach, class, ids, gate, dedup and determinants let nothing expect"
	case predicted < required:
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("%s is to be expected of a service that is made like this, and %s is required", predicted, required)
	}
	return c
}
