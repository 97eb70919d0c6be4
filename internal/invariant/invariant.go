package invariant

import "fmt"

// Must panics with the formatted message when ok is false. State the rule, not
// the symptom: Must(durable <= end, "log: durable %d is at most end %d", ...).
func Must(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}

// MustNil panics when err is not nil. It is for calls whose failure would mean
// that the program, not the world, is wrong.
func MustNil(err error, format string, args ...any) {
	if err != nil {
		panic("invariant broken: " + fmt.Sprintf(format, args...) + ": " + err.Error())
	}
}

// MustGet returns v, and panics when err is not nil; see [MustNil].
func MustGet[T any](v T, err error) T {
	MustNil(err, "value of type %T", v)
	return v
}
