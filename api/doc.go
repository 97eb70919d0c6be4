// Package api is the contract of the control plane: protobuf messages and
// Connect services in proto/, generated code in tidegatev1, and the conversions
// between messages and the vocabulary of package tidegate.
//
// It promises that a classified error of one process is the same classified
// error in another: class, hint, condition and the rules that said no cross the
// wire ([Error], [FromError]). It converts nothing that needs a type above the
// vocabulary; the protocol's own types are converted in gating/fencewire.
//
// # Picture
//
//	gate, standby --Error--> connect --FromError--> agent, standby, gate, cmd
//
// All functions may be called concurrently. After a change in proto/ run
// `make generate`; `make check` runs buf lint and buf breaking.
package api
