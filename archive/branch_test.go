package archive

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

// seg is a segment of history h, which is the first byte of its chain.
func seg(h byte, first, last tidegate.Seq, epoch tidegate.Epoch) Segment {
	return Segment{First: first, Last: last, Epoch: epoch, Chain: tidegate.Chain{h, byte(last)}}
}

func words(b Branch) string {
	var out []string
	for i, s := range b.Segments {
		out = append(out, fmt.Sprintf("%c%d-%d", s.Chain[0], s.First, b.until(i)))
	}
	for _, h := range b.Holes {
		out = append(out, fmt.Sprintf("hole %d-%d", h.First, h.Last))
	}
	return strings.Join(out, " ")
}

func TestNewestBranch(t *testing.T) {
	for name, c := range map[string]struct {
		all  []Segment
		part map[string]bool // pairs that do not meet: "a5>b6"
		want string
		runs int
	}{
		"nothing":                      {nil, nil, "", 0},
		"in a row":                     {[]Segment{seg('a', 1, 5, 1), seg('a', 6, 9, 1)}, nil, "a1-5 a6-9", 1},
		"does not begin at 1":          {[]Segment{seg('a', 6, 9, 1), seg('a', 10, 12, 1)}, nil, "a6-9 a10-12", 1},
		"a hole":                       {[]Segment{seg('a', 1, 5, 1), seg('a', 8, 9, 1), seg('a', 10, 10, 1)}, nil, "a1-5 a8-9 a10-10 hole 6-7", 2},
		"overlapping":                  {[]Segment{seg('a', 1, 5, 1), seg('a', 3, 8, 1), seg('a', 6, 9, 1)}, nil, "a1-5 a6-9", 1},
		"overlapping only":             {[]Segment{seg('a', 1, 5, 1), seg('a', 3, 8, 1)}, nil, "a1-2 a3-8", 1},
		"one within another":           {[]Segment{seg('a', 1, 9, 1), seg('a', 3, 5, 1), seg('a', 10, 12, 1)}, nil, "a1-9 a10-12", 1},
		"twice":                        {[]Segment{seg('a', 1, 5, 1), seg('a', 1, 5, 1), seg('a', 6, 7, 1)}, nil, "a1-5 a6-7", 1},
		"highest epoch":                {[]Segment{seg('a', 1, 5, 1), seg('a', 6, 20, 1), seg('b', 6, 7, 2)}, map[string]bool{"a20>b6": true}, "a1-5 b6-7", 1},
		"left within":                  {[]Segment{seg('a', 1, 5, 1), seg('a', 6, 20, 1), seg('b', 9, 10, 2)}, nil, "a1-5 a6-8 b9-10", 1},
		"two ends, one meets":          {[]Segment{seg('a', 1, 5, 1), seg('b', 1, 5, 1), seg('a', 6, 7, 2)}, map[string]bool{"b5>a6": true}, "a1-5 a6-7", 1},
		"nobody meets":                 {[]Segment{seg('c', 1, 2, 1), seg('a', 3, 5, 1), seg('b', 3, 5, 1), seg('d', 6, 7, 2)}, map[string]bool{"a5>d6": true, "b5>d6": true}, "c1-2 d6-7 hole 3-5", 2},
		"one alone, of another branch": {[]Segment{seg('a', 1, 5, 1), seg('b', 6, 9, 2)}, map[string]bool{"a5>b6": true}, "b6-9 hole 1-5", 1},
		"the same behind others":       {[]Segment{seg('c', 1, 2, 1), seg('a', 3, 5, 1), seg('b', 6, 9, 2)}, map[string]bool{"a5>b6": true}, "c1-2 b6-9 hole 3-5", 2},
		"one alone, overlapping":       {[]Segment{seg('c', 1, 2, 1), seg('a', 3, 7, 1), seg('b', 6, 9, 1)}, map[string]bool{"a7>b6": true}, "c1-2 b6-9 hole 3-5", 2},
		"an old one of no use":         {[]Segment{seg('a', 1, 5, 3), seg('b', 2, 9, 2)}, nil, "a1-5", 1},
	} {
		asked := 0
		got, err := newest(c.all, func(prev, next Segment) (bool, error) {
			asked++
			return !c.part[fmt.Sprintf("%c%d>%c%d", prev.Chain[0], prev.Last, next.Chain[0], next.First)], nil
		})
		if d := cmp.Diff(c.want, words(got)); err != nil || d != "" || len(got.Runs()) != c.runs {
			t.Errorf("%s: %v, %d runs (-want +got):\n%s", name, err, len(got.Runs()), d)
		}
		if (name == "in a row" || name == "does not begin at 1") && asked > 0 {
			t.Errorf("%s: asked %d times", name, asked)
		}
		for i, s := range got.Segments {
			for seq := s.First; seq <= got.until(i); seq++ {
				if at, ok := got.At(seq); !ok || at != i {
					t.Errorf("%s: batch %d is in segment %d, %v; want %d", name, seq, at, ok, i)
				}
			}
		}
		for _, h := range got.Holes {
			if _, ok := got.At(h.First); ok {
				t.Errorf("%s: batch %d is in a hole, and found", name, h.First)
			}
		}
	}
	boom := errors.New("boom")
	_, err := newest([]Segment{seg('a', 1, 2, 1), seg('b', 1, 2, 1), seg('a', 3, 4, 1)}, func(Segment, Segment) (bool, error) { return false, boom })
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}
