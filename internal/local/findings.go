package local

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Findings are what one session's library has found and not taken back, by name.
// The zero value has none. Not safe for concurrent use.
type Findings struct {
	all []Finding // by name
}

// Note takes in a message and reports whether it is news: another one, a graver or
// a lesser one, or none any more. A name's text may count something, and change
// often. Names beyond [FindingsMax] are not kept.
func (f *Findings) Note(m *Finding) (news bool) {
	i, known := slices.BinarySearchFunc(f.all, m.Name, func(have Finding, name string) int { return strings.Compare(have.Name, name) })
	switch {
	case known && m.Text == "":
		f.all = slices.Delete(f.all, i, i+1)
		return true
	case known:
		news = f.all[i].Severity != m.Severity || m.Name == "" && f.all[i].Text != m.Text
		f.all[i] = *m
		return news
	case m.Text == "" || len(f.all) == FindingsMax && m.Name != "":
		return false
	}
	f.all = slices.Insert(f.all, i, *m)
	return true
}

// Work is what keeps the library from its work; nil while nothing does.
func (f *Findings) Work() error {
	if len(f.all) == 0 || f.all[0].Name != "" {
		return nil
	}
	return f.all[0].Err()
}

// List returns a copy, the gravest first.
func (f *Findings) List() []Finding {
	out := slices.Clone(f.all)
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return out
}

// MarshalText writes the severity's name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name that MarshalText has written.
func (s *Severity) UnmarshalText(b []byte) error {
	for one := SeverityInfo; one <= SeverityCritical; one++ {
		if one.String() == string(b) {
			*s = one
			return nil
		}
	}
	return fmt.Errorf("severity %q: want info, warning or critical", b)
}
