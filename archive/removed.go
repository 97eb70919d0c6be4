package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/snapshot"
)

// Removed is what [RemovedName] holds: what a rule has let go, and the holes that were
// there beside it, for ever. It is written before anything goes, so that what it names
// may still be there.
type Removed struct {
	Version int      `json:"version"` // Version
	Log     []Gone   `json:"log"`     // ascending, none touches the next
	Scars   []Hole   `json:"scars"`   // ascending: batches that were never archived
	Bases   []string `json:"bases"`   // names of manifests, the newest last; at most removedBasesMax
}

// Gone is log that a rule has let go; the position is that behind it, which says of
// which branch it was.
type Gone struct {
	First tidegate.Seq   `json:"first"`
	Last  tidegate.Seq   `json:"last"` // inclusive
	Epoch tidegate.Epoch `json:"epoch"`
	Chain tidegate.Chain `json:"chain"`
}

// segment is g as if it were one that is there.
func (g Gone) segment() Segment { return Segment(g) }

// removedBasesMax bounds the names that are remembered: no node holds as many bases,
// which is what they are remembered for.
const removedBasesMax = 256

// Encode returns the document; an error when it would be longer than documents are.
func (r Removed) Encode() ([]byte, error) {
	r.Version = Version
	b := document(r)
	if len(b) > DocumentBytesMax {
		return nil, &tidegate.Error{
			Op: "write what was removed", Class: tidegate.Permanent, Err: fmt.Errorf("%d ranges and %d holes take %d bytes, more than %d", len(r.Log), len(r.Scars), len(b), DocumentBytesMax),
			Hint: "keep fewer bases beyond the window",
		}
	}
	return b, nil
}

// ParseRemoved reads the document of a stream; errors as those of [ParseStream].
func ParseRemoved(id tidegate.StreamID, b []byte) (r Removed, err error) {
	name := RemovedName(id)
	if err := json.Unmarshal(b, &r); err != nil {
		return Removed{}, corrupt(name, err)
	}
	if r.Version != Version {
		return Removed{}, fmt.Errorf("%s: version %d: %w", name, r.Version, tidegate.ErrUnsupported)
	}
	last := tidegate.Seq(0)
	for _, g := range r.Log {
		if err = g.segment().check(); err == nil && g.First <= last {
			err = fmt.Errorf("batch %d follows %d", uint64(g.First), uint64(last))
		}
		if err != nil {
			return Removed{}, corrupt(name, err)
		}
		last = g.Last
	}
	for _, h := range r.Scars {
		if h.First == 0 || h.Last < h.First {
			return Removed{}, corrupt(name, fmt.Errorf("hole from %d to %d", uint64(h.First), uint64(h.Last)))
		}
	}
	return r, nil
}

// addLog notes segments of one branch, ascending and without overlaps, as gone.
func (r *Removed) addLog(segments []Segment) {
	all := slices.Clone(r.Log)
	for _, s := range segments {
		all = append(all, Gone(s))
	}
	slices.SortStableFunc(all, func(a, b Gone) int { return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last)) })
	var out []Gone
	for _, g := range all {
		if n := len(out); n > 0 && g.First <= out[n-1].Last+1 {
			if before := &out[n-1]; g.Last >= before.Last {
				before.Last, before.Epoch, before.Chain = g.Last, g.Epoch, g.Chain
			}
			continue
		}
		out = append(out, g)
	}
	r.Log = out
}

// addScars notes holes that nobody has made.
func (r *Removed) addScars(holes ...Hole) {
	var all Coverage
	for _, h := range append(slices.Clone(r.Scars), holes...) {
		all.Add(Range(h))
	}
	r.Scars = nil
	for _, run := range all.Runs() {
		r.Scars = append(r.Scars, Hole(run))
	}
}

// addBase notes that a base goes.
func (r *Removed) addBase(name snapshot.Name) {
	if r.hasBase(name) {
		return
	}
	r.Bases = append(r.Bases, name.String())
	r.Bases = slices.Delete(r.Bases, 0, max(0, len(r.Bases)-removedBasesMax))
}

func (r *Removed) hasBase(name snapshot.Name) bool { return slices.Contains(r.Bases, name.String()) }

// gone reports whether a rule has let a batch go.
func (r *Removed) gone(seq tidegate.Seq) bool {
	return slices.ContainsFunc(r.Log, func(g Gone) bool { return g.First <= seq && seq <= g.Last })
}

// holes are those of a branch that no rule has made, and those that were written down,
// but for what somebody has filled.
func (r *Removed) holes(b Branch) []Hole {
	var gone, there []Range
	for _, g := range r.Log {
		gone = append(gone, Range{g.First, g.Last})
	}
	for _, g := range b.Segments {
		there = append(there, Range{g.First, g.Last})
	}
	var all Removed
	for _, h := range b.Holes {
		all.addScars(without(h, gone)...)
	}
	for _, h := range r.Scars {
		all.addScars(without(h, there)...)
	}
	return all.Scars
}

// without is what is left of a hole without some ranges, which begin in ascending order.
func without(h Hole, less []Range) (left []Hole) {
	next := h.First
	for _, r := range less {
		if r.Last < next || r.First > h.Last {
			continue
		}
		if r.First > next {
			left = append(left, Hole{next, r.First - 1})
		}
		next = r.Last + 1
	}
	if next <= h.Last {
		left = append(left, Hole{next, h.Last})
	}
	return left
}

// readRemoved reads the document of a stream; there is none: the zero value. tag is
// for a put that replaces it, empty when there is none.
func readRemoved(ctx context.Context, b bucket.Bucket, id tidegate.StreamID) (r Removed, tag string, err error) {
	text, o, err := bucket.ReadAll(ctx, b, RemovedName(id), DocumentBytesMax)
	if errors.Is(err, tidegate.ErrNotFound) {
		return Removed{}, "", nil
	}
	if err != nil {
		return Removed{}, "", fmt.Errorf("%s: %w", RemovedName(id), err)
	}
	r, err = ParseRemoved(id, text)
	return r, o.Tag, err
}
