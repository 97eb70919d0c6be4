package registry

import (
	"context"
	"encoding/json"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/rules"
)

// overridesTable is not live: it is read when rules are evaluated.
const overridesTable = "overrides/"

// Override is an operator's word against one rule of a service.
type Override struct {
	Service tidegate.ServiceName `json:"service"`
	rules.Override
}

// ID names the override; there is one per service and rule.
func (o Override) ID() string { return string(o.Service) + "/" + o.Rule }

// OverrideKey is the key of an [Override]: one per service and rule.
func OverrideKey(s tidegate.ServiceName, rule string) Key {
	return Key(overridesTable + string(s) + "/" + rule)
}

// Overrides reads the overrides of a service, or of all services when of is
// empty, also those that have expired and nobody has revoked yet.
func (s *Store) Overrides(ctx context.Context, of tidegate.ServiceName) ([]Override, error) {
	prefix := overridesTable
	if of != "" {
		prefix += string(of) + "/"
	}
	var out []Override
	err := s.list(ctx, prefix, func(k Key, v []byte) error {
		var o Override
		if err := json.Unmarshal(v, &o); err != nil {
			return corrupt(k, err)
		}
		out = append(out, o)
		return nil
	})
	return out, err
}
