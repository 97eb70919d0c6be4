package pgtest

import (
	"os"
	"testing"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// Install is where the binaries are and who may run the server.
type Install struct{ pgrun.Install }

// Find looks for PostgreSQL and for the account; the test fails when there is none.
func Find(tb testing.TB) Install {
	tb.Helper()
	in, err := pgrun.Find()
	must(tb, err)
	return Install{in}
}

// must ends the test when there is an error.
func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// Tool is the path of one of PostgreSQL's programs; the test fails without it.
func (in Install) Tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := in.Install.Tool(name)
	must(tb, err)
	return path
}

// Place makes a directory that the account owns, with a path short enough for
// sockets; it is removed when the test ends.
func (in Install) Place(tb testing.TB) string {
	tb.Helper()
	dir, err := in.Install.Place()
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("place: %v", err)
		}
	})
	must(tb, err)
	return dir
}

// Give makes the account the owner of path.
func (in Install) Give(tb testing.TB, path string, mode os.FileMode) {
	tb.Helper()
	must(tb, in.Install.Give(path, mode))
}

// WriteFile writes a file that belongs to the account.
func (in Install) WriteFile(tb testing.TB, path, content string, mode os.FileMode) {
	tb.Helper()
	must(tb, in.Install.WriteFile(path, content, mode))
}
