package gating

import (
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/registry"
)

func hasStream(streams []registry.Stream, id string) bool {
	return slices.ContainsFunc(streams, func(s registry.Stream) bool { return s.ID.String() == id })
}

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

// unique joins lists, keeping the first of equal entries.
func unique(lists ...[]string) []string {
	var out []string
	for _, l := range lists {
		for _, s := range l {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// refused is a refusal by one rule.
func misuse(op, subject string, err error) error {
	return &tidegate.Error{Op: op, Subject: subject, Class: tidegate.Misuse, Err: err}
}

func notFound(op, subject, hint string) error {
	return &tidegate.Error{Op: op, Subject: subject, Class: tidegate.Misuse, Hint: hint, Err: tidegate.ErrNotFound}
}
