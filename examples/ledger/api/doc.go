// Package api is what crosses the ledger's HTTP interface: paths, bodies and the
// typed reasons of refusals. Server and client share it and nothing else.
//
// Numbers: amounts and balances are JSON numbers in the currency's smallest
// unit; positions and digests are strings in the product's one text form.
//
// # Answers to a command
//
//   - 200 [Receipt]: carried out, and released by the gate
//   - 409 [Receipt]: refused by a rule of the ledger; that too is journaled and released
//   - 400 [Problem]: not a command
//   - 503 [Problem] with Retry-After: nothing is known of the outcome; the same
//     (client, request) may be sent again for ever and is carried out at most once.
//     A gate that takes no work says so at once (rejected, draining), with its
//     state and what a disaster would lose now
//
// A command may ask for more durability than its stream promises: its receipt
// then waits for that.
package api
