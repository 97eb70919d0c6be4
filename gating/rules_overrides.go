package gating

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/gating/rules"
)

// overrideWish is an override as asked for; expires 0 takes the default.
type overrideWish struct {
	rule    string
	reason  string
	expires time.Duration
}

// putOverrides writes an operator's overrides down, all of them or none, and
// returns them as they stand. An earlier one against the same rule is replaced.
func (p parts) putOverrides(ctx context.Context, service tidegate.ServiceName, actor string, wishes []overrideWish) ([]registry.Override, error) {
	if len(wishes) == 0 {
		return nil, nil
	}
	now := p.now()
	var errs []error
	var out []registry.Override
	tx := new(registry.Tx)
	for _, w := range wishes {
		if w.expires == 0 {
			w.expires = rules.OverrideTTL
		}
		o := registry.Override{Service: service, Override: rules.Override{
			Rule: w.rule, Reason: w.reason, Actor: actor, Given: now.UTC(), Expires: now.Add(w.expires).UTC(),
		}}
		errs = append(errs, o.Validate(now))
		out = append(out, o)
		tx.Put(registry.OverrideKey(service, w.rule), o)
		e := p.entry(ctx, ActionOverride, service, w.reason, fact("rule", "%s", w.rule), fact("expires", "%s", o.Expires.Format(time.RFC3339)))
		e.Actor = actor
		tx.Audit(e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, misuse("override", string(service), err)
	}
	if len(wishes) > len(rules.Rules()) {
		return nil, misuse("override", string(service), fmt.Errorf("%d overrides: want each rule once", len(wishes)))
	}
	var svc registry.Service
	rev, err := p.store.Get(ctx, registry.ServiceKey(service), &svc)
	if err != nil {
		return nil, err
	}
	if rev == 0 {
		return nil, notFound("override", string(service), "see `tidegate streams list`")
	}
	if _, err := p.store.Commit(ctx, tx); err != nil {
		return nil, err
	}
	for _, o := range out {
		p.log.Warn("rule overridden", "service", service, "rule", o.Rule, "reason", o.Reason, "actor", actor, "expires", o.Expires)
	}
	return out, nil
}

// listOverrides reads the overrides of a service, or of all services when it is
// empty: those in force, or also those that have expired.
func (p parts) listOverrides(ctx context.Context, service tidegate.ServiceName, expired bool) ([]registry.Override, error) {
	all, err := p.store.Overrides(ctx, service)
	if err != nil {
		return nil, err
	}
	now := p.now()
	var out []registry.Override
	for _, o := range all {
		if expired || o.InForce(now) {
			out = append(out, o)
		}
	}
	return out, nil
}

// revokeOverride takes an override back and returns it as it was.
func (p parts) revokeOverride(ctx context.Context, service tidegate.ServiceName, rule, actor, reason string) (registry.Override, error) {
	var o registry.Override
	key := registry.OverrideKey(service, rule)
	err := p.change(ctx, func() error {
		rev, err := p.store.Get(ctx, key, &o)
		if err != nil {
			return err
		}
		if rev == 0 {
			return notFound("revoke override of", string(service)+"/"+rule, "list them first; one that has expired counts for nothing anyway")
		}
		e := p.entry(ctx, ActionRevoke, service, reason, fact("rule", "%s", rule))
		e.Actor = actor
		_, err = p.store.Commit(ctx, new(registry.Tx).Unchanged(key, rev).Delete(key).Audit(e))
		return err
	})
	if err == nil {
		p.log.Warn("override revoked", "service", service, "rule", rule, "actor", actor)
	}
	return o, err
}
