//go:build !race

package racetest

// Enabled says that this binary has the race detector.
const Enabled = false
