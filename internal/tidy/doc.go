// Package tidy holds the house rules that a machine can judge fairly, as tests:
// which package may import which, where the package comment stands, that no
// test sleeps, that every link in the docs resolves, that every documented
// metric has a producer and the other way round. Length and taste are for readers.
//
// The rules read source as text and syntax and never build it, except for one
// `go list` of the agent's dependencies. They run with every `go test ./...`.
//
// # Picture
//
//	repository or a txtar tree -> [Load] -> Tree -> rule -> findings, one line each
//
// Not safe for concurrent use. The rules in words: CONTRIBUTING.md.
package tidy
