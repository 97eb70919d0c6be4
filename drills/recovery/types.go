package recovery

import (
	"fmt"
	"slices"
)

// Type is a recovery type. They are ordered: a smaller one is weaker. The zero
// value says that the type is not known, and is not weaker than any.
type Type int

// The types.
const (
	Unknown    Type = iota
	Gap             // outputs are missing, or inputs were lost behind outputs that were delivered
	Divergent       // no input was lost; outputs differ until the horizon
	Convergent      // no input was lost; outputs differ at first, and then no longer
	Repeating       // outputs come again, identical to what came before
	Precise         // the failure does not show in the outputs
)

var typeNames = []string{"unknown", "gap", "divergent", "convergent", "repeating", "precise"}

func (t Type) String() string { return nameOf(typeNames, int(t), "type") }

// MarshalText implements [encoding.TextMarshaler].
func (t Type) MarshalText() ([]byte, error) { return marshalName(typeNames, int(t), "recovery type") }

// UnmarshalText accepts what MarshalText writes.
func (t *Type) UnmarshalText(b []byte) error {
	return unmarshalName(typeNames, b, "recovery type", (*int)(t))
}

// ParseRequired parses what a stream's objective asks for: a type, of which "gap-ok" is
// the weakest. The empty string asks for nothing, and is [Unknown].
func ParseRequired(s string) (Type, error) {
	switch s {
	case "":
		return Unknown, nil
	case "gap-ok":
		return Gap, nil
	case "divergent", "convergent", "repeating", "precise":
		return Type(slices.Index(typeNames, s)), nil
	}
	return Unknown, fmt.Errorf("parse required recovery type %q: want precise, repeating, convergent, divergent or gap-ok", s)
}

// Weakest returns what may be said of all together: a gap anywhere is a gap, else
// nothing is known where one is not.
func Weakest(types ...Type) Type {
	weakest, unknown := Precise, len(types) == 0
	for _, t := range types {
		if t == Unknown {
			unknown = true
			continue
		}
		weakest = min(weakest, t)
	}
	if unknown && weakest != Gap {
		return Unknown
	}
	return weakest
}

// Class is a class of operators; each contains the next. The zero value says that it
// is not known.
type Class int

// The classes.
const (
	ClassUnknown      Class = iota
	Arbitrary               // wall time, arrival order, randomness or timeouts decide
	Deterministic           // the same state and inputs give the same outputs
	ConvergentCapable       // begun empty at an earlier input, its outputs become the same
	Repeatable              // begun empty at an earlier input, its outputs are the same at once
)

var classNames = []string{"unknown", "arbitrary", "deterministic", "convergent-capable", "repeatable"}

// Classes returns the classes, from the weakest to the strongest.
func Classes() []Class { return []Class{Arbitrary, Deterministic, ConvergentCapable, Repeatable} }

func (c Class) String() string { return nameOf(classNames, int(c), "class") }

// MarshalText implements [encoding.TextMarshaler].
func (c Class) MarshalText() ([]byte, error) {
	return marshalName(classNames, int(c), "operator class")
}

// UnmarshalText accepts what MarshalText writes.
func (c *Class) UnmarshalText(b []byte) error {
	return unmarshalName(classNames, b, "operator class", (*int)(c))
}

// Compose returns the class of a pipeline, which is that of its weakest operator; not
// known when one is not, unless another is arbitrary already.
func Compose(classes ...Class) Class {
	weakest, unknown := Repeatable, len(classes) == 0
	for _, c := range classes {
		if c == ClassUnknown {
			unknown = true
			continue
		}
		weakest = min(weakest, c)
	}
	if unknown && weakest != Arbitrary {
		return ClassUnknown
	}
	return weakest
}

// Approach is what is kept of a service at run time, to recover it from.
type Approach int

// The approaches. Which one a Tidegate service has: docs/operating/recovery-types.md.
const (
	ApproachUnknown Approach = iota
	Amnesia                  // nothing: it begins empty, with new inputs
	PassiveStandby           // its state from time to time, and the inputs since
	UpstreamBackup           // inputs that are still in effect; it begins empty, with them
	ActiveStandby            // a second one takes all inputs, and holds its outputs
)

var approachNames = []string{"unknown", "amnesia", "passive-standby", "upstream-backup", "active-standby"}

func (a Approach) String() string { return nameOf(approachNames, int(a), "approach") }

// MarshalText implements [encoding.TextMarshaler].
func (a Approach) MarshalText() ([]byte, error) {
	return marshalName(approachNames, int(a), "approach")
}

// UnmarshalText accepts what MarshalText writes.
func (a *Approach) UnmarshalText(b []byte) error {
	return unmarshalName(approachNames, b, "approach", (*int)(a))
}

func nameOf(names []string, v int, what string) string {
	if v >= 0 && v < len(names) {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", what, v)
}

func marshalName(names []string, v int, what string) ([]byte, error) {
	if v < 0 || v >= len(names) {
		return nil, fmt.Errorf("marshal %s %d: no such one", what, v)
	}
	return []byte(names[v]), nil
}

func unmarshalName(names []string, b []byte, what string, v *int) error {
	i := slices.Index(names, string(b))
	if i < 0 {
		return fmt.Errorf("parse %s %q: want one of %q", what, b, names)
	}
	*v = i
	return nil
}
