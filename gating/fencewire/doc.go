// Package fencewire converts between the values of package fence and the
// messages of the control plane, in both directions, for everyone who speaks
// it: the gate, standby nodes and agents.
//
// Converting to a message never fails. Converting back checks what the types
// demand (ids, states, quorums) and names the field that breaks the rule; it
// does not decide whether a value is allowed at this moment. A message that was
// converted there and back is equal to what it was.
//
// All functions may be called concurrently and keep no reference to what they
// were given.
package fencewire
