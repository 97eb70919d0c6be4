package standby

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/snapshot"
)

// keepFacts is everything that decides which bases may go. What is not known keeps
// all of them.
type keepFacts struct {
	// Off: the operator has everything kept.
	Off bool
	// Follows is as in trimFacts.
	Follows bool
	// Generation is that of what is committed of the log, and Opened who opened it.
	Generation tidegate.Generation
	Opened     tidegate.Epoch
	// Oldest is the generation of the oldest batch in the log; 0: not known.
	Oldest tidegate.Generation
	// Warm and Known are as in trimFacts. Serves is the generation of the base that the
	// warm service's state was made from; 0 when it has none yet.
	Warm   bool
	Known  bool
	Serves tidegate.Generation
	Keep   int // bases that are to stay of use
	Bases  []keepBase

	commit tidegate.LogPos // that the log has not been cut since is seen by it
}

// keepBase is a base in the store.
type keepBase struct {
	Listed snapshot.Listed
	Counts bool // it is held
	// Useless says why the log does not go on from it, as far as is known now; empty if
	// it does.
	Useless string
	Read    bool // it is being restored, or given to another node
}

// of reports whether the base is of a generation of the log.
func (b keepBase) of(g tidegate.Generation, opened tidegate.Epoch) bool {
	return b.Listed.Generation == g && b.Listed.Opened == opened
}

// BaseFate is whether a base is to go, and why, or why not, for people.
type BaseFate struct {
	Goes bool   `json:"goes"`
	Why  string `json:"why"`
}

// rule says, per base, whether it is to go.
//
// Invariants, whatever the facts:
//  1. nothing goes unless the node follows, and the warm service has said where it is
//  2. nothing goes that is being read
//  3. the newest Keep bases of the committed generation stay that count and from which
//     the log goes on, and each that is newer than the oldest of those: what the log
//     that is left rests on, wherever it begins, is among them
//  4. nothing goes while there is no such base; none of the same generation while
//     there are fewer than Keep
//  5. nothing goes of a generation that is opening, of one that the log has a batch of,
//     or that the warm service is of or before
func (f keepFacts) rule() []BaseFate {
	fates := make([]BaseFate, len(f.Bases))
	kept := f.kept()
	all := ""
	switch {
	case f.Off:
		all = "trim.off has everything kept"
	case !f.Follows:
		all = "this node does not follow the stream now"
	case f.Warm && !f.Known:
		all = "the warm service has not said what it has applied"
	case len(kept) == 0:
		all = "no base is held that the log goes on from"
	}
	for i, b := range f.Bases {
		switch {
		case all != "":
			fates[i].Why = all
		case b.Read:
			fates[i].Why = "it is being restored, or given to another node"
		default:
			fates[i] = f.fate(i, kept)
		}
	}
	return fates
}

// kept returns which bases stay of use, by index, the newest first.
func (f keepFacts) kept() (list []int) {
	for i, b := range slices.Backward(f.Bases) {
		if len(list) < max(f.Keep, 1) && b.of(f.Generation, f.Opened) && b.Counts && b.Useless == "" {
			list = append(list, i)
		}
	}
	return list
}

// fate is of a base that nobody reads, where kept are of use.
func (f keepFacts) fate(i int, kept []int) BaseFate {
	stays := func(format string, args ...any) BaseFate { return BaseFate{Why: fmt.Sprintf(format, args...)} }
	goes := func(format string, args ...any) BaseFate {
		return BaseFate{Goes: true, Why: fmt.Sprintf(format, args...)}
	}
	b := f.Bases[i]
	oldest := f.Bases[kept[len(kept)-1]].Listed
	switch g := b.Listed.Generation; {
	case slices.Contains(kept, i):
		return stays("the log goes on from it; of those the newest %d stay", max(f.Keep, 1))
	case g > f.Generation:
		return stays("its generation is not committed, the log is of generation %d", f.Generation)
	case g == f.Generation && b.Listed.Opened != f.Opened:
		return goes("epoch %s opened its generation, the log's was opened by %s", b.Listed.Opened, f.Opened)
	case g == f.Generation && b.Listed.Start >= oldest.Start && b.Useless != "":
		return stays("it is not of use yet: %s", b.Useless)
	case g == f.Generation && b.Listed.Start >= oldest.Start:
		return stays("it begins where another does that stays")
	case g == f.Generation && len(kept) < f.Keep:
		return stays("only %d of the %d that are to be kept are of use", len(kept), f.Keep)
	case g == f.Generation:
		return goes("newer ones stand for it")
	case f.Oldest == 0 || f.Oldest <= g:
		return stays("the log has batches of its generation")
	case f.Warm && f.Serves != 0 && f.Serves <= g:
		return stays("the warm service is of generation %d", f.Serves)
	}
	return goes("its generation was followed by generation %d", f.Generation)
}
