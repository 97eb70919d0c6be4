package main

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// enumWord turns GATE_STATE_ARMED into "armed": the operator's words are the
// enum's own, so that a new value needs no second table.
func enumWord(v protoreflect.Enum) string {
	d := v.Descriptor()
	name := string(d.Values().ByNumber(v.Number()).Name())
	prefix := string(d.Values().ByNumber(0).Name())
	prefix = strings.TrimSuffix(prefix, "UNSPECIFIED")
	word := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-"))
	if v.Number() == 0 {
		return "unknown"
	}
	return word
}

// enumValue is the inverse of enumWord among the values of v's type.
func enumValue(v protoreflect.Enum, word string) (protoreflect.EnumNumber, []string, bool) {
	values := v.Descriptor().Values()
	var words []string
	for i := 1; i < values.Len(); i++ {
		n := values.Get(i).Number()
		w := enumWord(v.Type().New(n))
		if w == word {
			return n, nil, true
		}
		words = append(words, w)
	}
	return 0, words, false
}
