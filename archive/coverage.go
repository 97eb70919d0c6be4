package archive

import (
	"slices"

	"github.com/tidegate/tidegate"
)

// Range is batches from First to Last, inclusive.
type Range struct {
	First tidegate.Seq `json:"first"`
	Last  tidegate.Seq `json:"last"`
}

// Coverage is which batches of one branch an archive has. The zero value has none.
type Coverage struct {
	runs []Range // ascending, neither touching nor empty
}

// Add notes that the batches of r are there.
func (c *Coverage) Add(r Range) {
	// The first run that r touches, and the first behind it that it does not.
	i, _ := slices.BinarySearchFunc(c.runs, r, func(have, r Range) int {
		if have.Last+1 < r.First {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(c.runs) && c.runs[j].First <= r.Last+1; j++ {
		r.First, r.Last = min(r.First, c.runs[j].First), max(r.Last, c.runs[j].Last)
	}
	c.runs = slices.Replace(c.runs, i, j, r)
}

// Runs returns what is there, ascending; the caller does not change it.
func (c *Coverage) Runs() []Range { return c.runs }

// Next returns the first batch that a log which begins with first has, and the
// archive lacks, and the last one before those that are there again; 0: nothing
// is there behind. What is before the archive's own beginning is not missed:
// somebody may have let it go.
func (c *Coverage) Next(first tidegate.Seq) (next, upTo tidegate.Seq) {
	if len(c.runs) == 0 {
		return first, 0
	}
	next = max(first, c.runs[0].First)
	for _, r := range c.runs {
		switch {
		case next < r.First:
			return next, r.First - 1
		case next <= r.Last:
			next = r.Last + 1
		}
	}
	return next, 0
}

// Holes returns what the archive lacks, and a log that begins with first does not
// have either: nobody but another node can fill it.
func (c *Coverage) Holes(first tidegate.Seq) (holes []Range) {
	for i, r := range c.runs {
		next := first // of what is there again
		if i+1 < len(c.runs) {
			next = min(first, c.runs[i+1].First)
		}
		if r.Last+1 < next {
			holes = append(holes, Range{r.Last + 1, next - 1})
		}
	}
	return holes
}
