package archive

import (
	"cmp"
	"slices"

	"github.com/tidegate/tidegate"
)

// Hole is a range of a branch that no segment has, both ends inclusive.
type Hole struct {
	First tidegate.Seq `json:"first"`
	Last  tidegate.Seq `json:"last"`
}

// Branch is segments whose chains meet, oldest first; each begins behind the beginning
// of the one before. They may overlap; what is between two that do not meet is a hole.
type Branch struct {
	Segments []Segment
	Holes    []Hole
}

// Tip is where the branch ends.
func (b Branch) Tip() tidegate.LogPos {
	if len(b.Segments) == 0 {
		return tidegate.LogPos{}
	}
	return b.Segments[len(b.Segments)-1].End()
}

// Runs are the parts of the branch that have no hole, oldest first: the indexes of
// their first segments and behind their last.
func (b Branch) Runs() (runs [][2]int) {
	from := 0
	for i := 1; i <= len(b.Segments); i++ {
		if i == len(b.Segments) || b.Segments[i].First > b.Segments[i-1].Last+1 {
			runs = append(runs, [2]int{from, i})
			from = i
		}
	}
	return runs
}

// At returns the index of the segment that the batch is to be taken from.
func (b Branch) At(seq tidegate.Seq) (int, bool) {
	n, found := slices.BinarySearchFunc(b.Segments, seq, func(s Segment, seq tidegate.Seq) int { return cmp.Compare(s.First, seq) })
	if !found {
		n--
	}
	return n, n >= 0 && seq <= b.until(n)
}

// until is the last batch that segment i is good for: behind the beginning of the next
// one it may be of another branch.
func (b Branch) until(i int) tidegate.Seq {
	last := b.Segments[i].Last
	if i+1 < len(b.Segments) {
		last = min(last, b.Segments[i+1].First-1)
	}
	return last
}

// newest finds the newest branch of a stream: from the segment of the highest epoch,
// and then the highest last seq, backwards. meets says whether next goes on from what
// prev has before it: it is asked where more than one segment could be the one before,
// where the epoch changes, and where the two overlap. What does not meet, or cannot be
// read so far, is on the other side of a hole. Of two segments in a row of one epoch,
// which had one writer, the bytes will tell when they are read.
func newest(segments []Segment, meets func(prev, next Segment) (bool, error)) (Branch, error) {
	if len(segments) == 0 {
		return Branch{}, nil
	}
	s := searcher{byFirst: slices.Clone(segments)}
	slices.SortFunc(s.byFirst, func(a, b Segment) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last), cmp.Compare(a.Epoch, b.Epoch), slices.Compare(a.Chain[:], b.Chain[:]))
	})
	for i, seg := range s.byFirst {
		last := seg.Last
		if i > 0 {
			last = max(last, s.reach[i-1])
		}
		s.reach = append(s.reach, last)
	}
	cur := slices.MaxFunc(s.byFirst, func(a, b Segment) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Last, b.Last), cmp.Compare(b.First, a.First))
	})
	out := Branch{Segments: []Segment{cur}}
	for cur.First > 1 {
		before, err := s.before(cur, meets)
		if err != nil {
			return Branch{}, err
		}
		if before == nil {
			if before = s.beyond(cur); before == nil {
				if oldest := s.byFirst[0].First; oldest < cur.First { // there is something, of no branch that is known
					out.Holes = append(out.Holes, Hole{oldest, cur.First - 1})
				}
				break
			}
			out.Holes = append(out.Holes, Hole{before.Last + 1, cur.First - 1})
		}
		cur = *before
		out.Segments = append(out.Segments, cur)
	}
	slices.Reverse(out.Segments)
	slices.Reverse(out.Holes)
	return out, nil
}

type searcher struct {
	byFirst []Segment
	reach   []tidegate.Seq // the highest Last of the segments up to this one
}

// upTo is how many segments begin before seq.
func (s *searcher) upTo(seq tidegate.Seq) int {
	n, _ := slices.BinarySearchFunc(s.byFirst, seq, func(g Segment, seq tidegate.Seq) int { return cmp.Compare(g.First, seq) })
	return n
}

// before is the segment that cur goes on from: one that reaches furthest back.
func (s *searcher) before(cur Segment, meets func(prev, next Segment) (bool, error)) (*Segment, error) {
	need := cur.First - 1
	var fit []Segment
	for i := s.upTo(cur.First) - 1; i >= 0 && s.reach[i] >= need; i-- {
		if g := s.byFirst[i]; g.Last >= need && g.Epoch <= cur.Epoch {
			fit = append(fit, g)
		}
	}
	slices.SortStableFunc(fit, func(a, b Segment) int {
		exact := func(g Segment) int { return min(1, int(g.Last-need)) }
		return cmp.Or(cmp.Compare(exact(a), exact(b)), cmp.Compare(a.First, b.First), cmp.Compare(b.Epoch, a.Epoch))
	})
	if len(fit) == 1 && fit[0].Epoch == cur.Epoch && fit[0].Last == need {
		return &fit[0], nil
	}
	for i := range fit {
		ok, err := meets(fit[i], cur)
		if tidegate.ClassOf(err) == tidegate.Corrupt {
			continue // verifying names it
		}
		if err != nil {
			return nil, err
		}
		if ok {
			return &fit[i], nil
		}
	}
	return nil, nil
}

// beyond is the newest segment on the other side of the hole before cur. Nothing can
// prove that it is of the same branch.
func (s *searcher) beyond(cur Segment) *Segment {
	var best *Segment
	for i := s.upTo(cur.First) - 1; i >= 0; i-- {
		g := &s.byFirst[i]
		if best != nil && s.reach[i] < best.Last {
			break
		}
		if g.Last < cur.First-1 && g.Epoch <= cur.Epoch &&
			(best == nil || cmp.Or(cmp.Compare(g.Last, best.Last), cmp.Compare(g.Epoch, best.Epoch)) > 0) {
			best = g
		}
	}
	return best
}
