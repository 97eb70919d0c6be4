package stores

// Keeper is a Source whose store keeps something for the stream that would stay
// behind when the stream is removed, and do harm there: log that nobody takes any
// more, a name that commits wait for. Both methods may be called at any time, do no
// I/O, and do not wait.
type Keeper interface {
	Source

	// Wanted says whether the stream is registered, or is about to be removed: then
	// the store is to let go of what it keeps. Before the first word nothing that is
	// not kept yet is begun to be kept.
	Wanted(yes bool)

	// Keeps lists what is kept, each with the command that removes it by hand; empty
	// when nothing is, as far as is known.
	Keeps() []string
}
