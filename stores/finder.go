package stores

import "github.com/tidegate/tidegate/internal/local"

// Finder is a Source that can say what is wrong with its store also while nothing
// that speaks the local session is connected: before a server was ever reached,
// nobody can say hello for it.
type Finder interface {
	Source

	// Findings is what is found now; the one without a name keeps the source from its
	// work. It may be called at any time, does no I/O, and does not wait.
	Findings() []local.Finding
}
