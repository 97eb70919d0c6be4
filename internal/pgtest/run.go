package pgtest

import (
	"testing"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// Run runs one of PostgreSQL's programs to its end as the account and returns
// what it printed, standard error included; the test fails when it fails.
func (in Install) Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := in.Install.Run(name, args...)
	must(tb, err)
	return out
}

// Try is [Install.Run] with more environment, and for programs that may fail.
func (in Install) Try(tb testing.TB, env []string, name string, args ...string) (string, error) {
	tb.Helper()
	in.Tool(tb, name) // that it is missing is no failure of its
	return in.Install.Try(env, name, args...)
}

// Process is a program that runs beside the test. It is killed when the test
// ends. Methods may be called concurrently.
type Process = pgrun.Process

// Start starts a program in the background as the account.
func (in Install) Start(tb testing.TB, env []string, name string, args ...string) *Process {
	tb.Helper()
	return beside(tb)(in.Install.Start(env, name, args...))
}

// beside ends a program with the test.
func beside(tb testing.TB) func(*Process, error) *Process {
	return func(p *Process, err error) *Process {
		tb.Helper()
		must(tb, err)
		tb.Cleanup(p.Kill)
		return p
	}
}
