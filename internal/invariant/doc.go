// Package invariant stops the process when the program contradicts itself.
//
// It is for broken invariants only: a state that no input can cause unless the
// code is wrong. Bad input, a full disk and a failed fsync are errors.
//
// All functions may be called concurrently.
package invariant
