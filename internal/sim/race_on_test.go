//go:build race

package sim

// raced says that this binary is slow: worlds have one goroutine each, and the race
// detector has little to find in them.
const raced = true
