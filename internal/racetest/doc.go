// Package racetest has tests that compute much, and have nothing that runs at once,
// run without the race detector, which would take ten times as long for them.
package racetest
