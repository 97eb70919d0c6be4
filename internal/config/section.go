package config

import (
	"errors"
	"reflect"

	"go.yaml.in/yaml/v3"
)

// Section is a part of a file that another package reads: the reader of the file
// knows that it is there and not what is in it. The zero value is an absent one.
type Section struct {
	path string
	node *yaml.Node
}

var sectionType = reflect.TypeFor[Section]()

// IsZero reports whether the file has no such section, or an empty one.
func (s Section) IsZero() bool { return s.node == nil || isNull(s.node) }

// ReadSection decodes a section, sets defaults and validates, as strictly as
// [Parse] does. An absent section is all defaults. Every mistake is reported under
// the section's path in its file: join them to those of the file's Validate, or
// give them to [Refuse].
func ReadSection[F Defaulter[F]](s Section) (F, error) {
	var v, zero F
	var w walker
	if !s.IsZero() {
		w.value(s.node, reflect.ValueOf(&v).Elem(), s.path)
	}
	v = v.SetDefaults()
	mistakes := append(w.mistakes, without(flatten(Under(s.path, v.Validate())), w.mistakes)...)
	if len(mistakes) == 0 {
		return v, nil
	}
	all := make([]error, len(mistakes))
	for i, m := range mistakes {
		all[i] = m
	}
	return zero, errors.Join(all...)
}

// Refuse makes the error of mistakes that were found after [Parse]; nil if err is.
func Refuse(name string, err error) error {
	if err == nil {
		return nil
	}
	return refusal(name, flatten(err))
}
