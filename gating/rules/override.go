package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Override is an operator's word against one rule of one service: go on although
// it does not hold, until it expires.
type Override struct {
	Rule    string    `json:"rule"`
	Reason  string    `json:"reason"`
	Actor   string    `json:"actor"`   // who gave it, as in plans: role/name
	Given   time.Time `json:"given"`   // on the gate's wall clock
	Expires time.Time `json:"expires"` // from this moment on it counts for nothing
}

// How long an override lasts when nothing is said, and at most. It is meant for
// one change of role, not for a policy: a rule that is in the way every day is
// the wrong rule.
const (
	OverrideTTL    = time.Hour
	OverrideTTLMax = 24 * time.Hour
)

// reasonLenMax bounds a reason, in bytes.
const reasonLenMax = 500

// Validate reports why an override cannot be taken at a moment: a rule that
// nobody may override, or is not one, no reason, or an expiry that has passed
// or is too far away.
func (o Override) Validate(now time.Time) error {
	var errs []error
	r, ok := Lookup(o.Rule)
	switch {
	case !ok:
		errs = append(errs, fmt.Errorf("rule %q: want one of %s", o.Rule, strings.Join(Overridable(), ", ")))
	case !r.named():
		errs = append(errs, fmt.Errorf("rule %s cannot be overridden by name: %s", o.Rule, r.Instead))
	}
	if strings.TrimSpace(o.Reason) == "" || len(o.Reason) > reasonLenMax {
		errs = append(errs, fmt.Errorf("reason: want 1 to %d characters", reasonLenMax))
	}
	if o.Actor == "" {
		errs = append(errs, errors.New("actor: want somebody"))
	}
	if d := o.Expires.Sub(now); d <= 0 || d > OverrideTTLMax {
		errs = append(errs, fmt.Errorf("expires in %s: want more than 0 and at most %s", d.Round(time.Second), OverrideTTLMax))
	}
	return errors.Join(errs...)
}

// InForce reports whether the override counts at a moment.
func (o Override) InForce(now time.Time) bool { return now.Before(o.Expires) }

// Overridable lists the rules that an operator may override by name.
func Overridable() []string {
	var out []string
	for _, r := range Rules() {
		if r.named() {
			out = append(out, r.Name)
		}
	}
	slices.Sort(out)
	return out
}

// find returns the override in force against a rule, the one that lasts longest.
func find(overrides []Override, rule string, now time.Time) *Override {
	var best *Override
	for i := range overrides {
		o := &overrides[i]
		if o.Rule == rule && o.InForce(now) && (best == nil || o.Expires.After(best.Expires)) {
			best = o
		}
	}
	if best == nil {
		return nil
	}
	c := *best
	return &c
}
