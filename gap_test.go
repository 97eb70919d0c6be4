package tidegate_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

// Whoever has forgotten a gap, or still knows one that was accepted anew, takes nothing away.
func TestMergeGaps(t *testing.T) {
	t.Parallel()
	gap := func(e tidegate.Epoch, second int64) tidegate.Gap {
		return tidegate.Gap{Epoch: e, Since: time.Unix(second, 0)}
	}
	one, two, again := gap(2, 10), gap(5, 20), gap(5, 30)
	for _, c := range []struct{ a, b, want []tidegate.Gap }{
		{nil, nil, nil},
		{[]tidegate.Gap{one, two}, nil, []tidegate.Gap{one, two}},
		{[]tidegate.Gap{two}, []tidegate.Gap{one}, []tidegate.Gap{one, two}},
		{[]tidegate.Gap{one, two}, []tidegate.Gap{again}, []tidegate.Gap{one, again}},
		{[]tidegate.Gap{again}, []tidegate.Gap{one, two}, []tidegate.Gap{one, again}},
	} {
		a := slices.Clone(c.a)
		if got := tidegate.MergeGaps(c.a, c.b); !slices.Equal(got, c.want) || !slices.Equal(a, c.a) {
			t.Errorf("%v and %v: %v", c.a, c.b, got)
		}
	}
}
