// Package storestest is the conformance suite of [stores.Source]: every store
// runs it against its own implementation.
package storestest
