package archive

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/snapshot"
)

// day is midnight of a day, on which batch n was sealed.
func day(n int) time.Time { return time.Date(2026, 1, 0, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n) }

// baseOf is a base of a day, whole with the next day's batch, of a log that goes on to end.
func baseOf(at, end int) BaseFact {
	return BaseFact{
		Name: snapshot.Name{byte(at)}, Generation: 1, Start: tidegate.Position(at), Taken: day(at),
		Begin: tidegate.Seq(at), Whole: tidegate.Seq(at + 1), Moment: day(at + 1), End: tidegate.Seq(end), Until: day(end),
	}
}

// behind is such a base, when the source's clock said another day.
func behind(at, end, said int) BaseFact {
	b := baseOf(at, end)
	b.Moment = day(said)
	return b
}

func TestRetention(t *testing.T) {
	unfit, next, locked := baseOf(30, 100), baseOf(95, 100), baseOf(20, 100)
	unfit.Unfit, next.Unfit, locked.Locked = "a hole", "its log is not there yet", true
	second := baseOf(70, 100)
	second.Generation = 2
	window := Retention{Window: 20 * 24 * time.Hour}
	months := Retention{Window: window.Window, Keep: Keep{Monthly: 3}}
	for name, tc := range map[string]struct {
		rule    Retention
		bases   []BaseFact
		now     int    // day of the clock
		held    string // part of why nothing goes
		goes    []int
		from    tidegate.Seq
		islands []Range
	}{
		"off":                       {Retention{}, []BaseFact{baseOf(1, 100), baseOf(50, 100)}, 100, "no window", nil, 1, nil},
		"no base":                   {window, nil, 100, "no base", nil, 1, nil},
		"none is old enough":        {window, []BaseFact{baseOf(85, 100), baseOf(90, 100)}, 100, "no base is older", nil, 1, nil},
		"the window":                {window, []BaseFact{baseOf(1, 100), baseOf(50, 100), baseOf(70, 100), baseOf(85, 100)}, 100, "", []int{0, 1}, 70, nil},
		"the window's first moment": {window, []BaseFact{baseOf(1, 100), baseOf(79, 100), baseOf(80, 100)}, 100, "", []int{0}, 79, nil},
		"months beyond it":          {months, []BaseFact{baseOf(1, 100), baseOf(15, 100), baseOf(50, 100), baseOf(70, 100), baseOf(85, 100)}, 100, "", []int{0}, 70, []Range{{15, 16}, {50, 51}}},
		"in two mirrors":            {window, []BaseFact{baseOf(1, 100), baseOf(1, 100), baseOf(70, 100), baseOf(70, 100)}, 100, "", []int{0, 1}, 70, nil},
		"the newest is of no use":   {window, []BaseFact{baseOf(1, 100), baseOf(70, 100), next}, 100, "is of no use", nil, 1, nil},
		"a hole behind the newest":  {window, []BaseFact{baseOf(1, 90), baseOf(70, 90)}, 100, "there is a hole", nil, 1, nil},
		"one of no use is old":      {window, []BaseFact{unfit, baseOf(70, 100)}, 100, "", []int{0}, 70, nil},
		"one is locked":             {window, []BaseFact{baseOf(1, 100), locked, baseOf(70, 100)}, 100, "", []int{0}, 70, []Range{{20, 21}}},
		"a generation in the window": {window, []BaseFact{baseOf(1, 84), baseOf(60, 84), func() BaseFact {
			b := second
			b.Start, b.Begin, b.Whole, b.Moment, b.Taken = 0, 85, 86, day(86), day(85)
			return b
		}()}, 100, "", []int{0}, 60, nil},
		"a generation before it":    {window, []BaseFact{baseOf(1, 69), baseOf(60, 69), second}, 100, "", []int{0, 1}, 70, nil},
		"a hole where it begins":    {window, []BaseFact{baseOf(1, 50), baseOf(90, 100)}, 100, "no base is older", nil, 1, nil},
		"a clock that is far ahead": {window, []BaseFact{baseOf(1, 100), baseOf(85, 100)}, 100_000, "", nil, 1, nil},
		"a moment that is behind":   {window, []BaseFact{baseOf(1, 100), baseOf(70, 100), baseOf(85, 100), behind(90, 100, 60)}, 100, "", []int{0}, 70, nil},
		"both clocks are behind": {window, []BaseFact{baseOf(1, 100), baseOf(70, 100), baseOf(85, 100), func() BaseFact {
			b := behind(90, 100, 60)
			b.Taken = b.Moment
			return b
		}()}, 100, "", []int{0}, 70, nil},
		"the first one is behind": {window, []BaseFact{behind(90, 100, 60), baseOf(95, 100)}, 100, "no base is older", nil, 1, nil},
		"a clock that is behind":  {window, []BaseFact{baseOf(1, 100), baseOf(70, 100)}, 80, "", nil, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.rule.Rule(tc.bases, 100, day(100), day(tc.now))
			if (tc.held == "") != (got.Held == "") || !strings.Contains(got.Held, tc.held) {
				t.Fatalf("held: %q, want %q", got.Held, tc.held)
			}
			var goes []int
			for i, why := range got.Stays {
				if why == "" {
					goes = append(goes, i)
				}
			}
			if !slices.Equal(goes, tc.goes) || got.From != tc.from || !slices.Equal(got.Islands, tc.islands) {
				t.Errorf("%v go, log from %d and %v, want %v, %d and %v; %q", goes, got.From, got.Islands, tc.goes, tc.from, tc.islands, got.Stays)
			}
		})
	}
}

// TestRetentionKeepsWhatCanBeRestored: whatever lies in an archive, a moment of the
// window that can be restored before can be restored after, each base that stays has its
// log, and what goes once does not come to be missed at a later pass.
func TestRetentionKeepsWhatCanBeRestored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const tip = 200
		cuts := rapid.SliceOfNDistinct(rapid.IntRange(2, tip-1), 0, 3, rapid.ID[int]).Draw(t, "generations end")
		slices.Sort(cuts)
		ends := append(cuts, tip)
		// The source's clock is behind for a while; that of the node that takes bases is not.
		from, to := rapid.IntRange(1, tip).Draw(t, "behind from"), rapid.IntRange(1, tip).Draw(t, "behind to")
		by := rapid.IntRange(0, 200).Draw(t, "behind by")
		said := func(seq tidegate.Seq) time.Time {
			if n := int(seq); from <= n && n <= to {
				return day(n - by)
			}
			return day(int(seq))
		}
		var bases []BaseFact
		for _, at := range rapid.SliceOfN(rapid.IntRange(1, tip-1), 1, 12).Draw(t, "bases") {
			g, _ := slices.BinarySearch(ends, at+1)
			b := baseOf(at, ends[g])
			b.Generation = tidegate.Generation(g + 1)
			b.Taken, b.Moment, b.Until = day(at+1), said(b.Whole), said(b.End)
			bases = append(bases, b)
		}
		rule := Retention{Window: time.Duration(rapid.IntRange(1, 150).Draw(t, "window")) * 24 * time.Hour, Keep: Keep{Weekly: rapid.IntRange(0, 9).Draw(t, "weekly")}}
		kept := rule.Rule(bases, tip, said(tip), day(tip))
		there := func(r Range) bool {
			return r.First >= kept.From || slices.ContainsFunc(kept.Islands, func(i Range) bool { return i.First <= r.First && r.Last <= i.Last })
		}
		restorable := func(seq tidegate.Seq, after bool) bool {
			for i, b := range bases {
				if b.Whole <= seq && seq <= b.End && (!after || kept.Stays[i] != "" && there(Range{b.Begin, seq})) {
					return true
				}
			}
			return false
		}
		for seq := tidegate.Seq(1); seq <= tip; seq++ {
			if day(int(seq)).Before(day(tip).Add(-rule.Window)) {
				continue
			}
			if restorable(seq, false) && !restorable(seq, true) {
				t.Fatalf("batch %d could be restored, and can not with %+v", seq, kept)
			}
		}
		for i, b := range bases {
			if kept.Stays[i] != "" && !there(Range{b.Begin, b.Whole}) {
				t.Fatalf("base %d stays without its log: %+v", i, kept)
			}
		}
	})
}

// TestSegmentsThatGo: what overlaps what stays does too, and what is aside goes with
// the log around it.
func TestSegmentsThatGo(t *testing.T) {
	seg := func(first, last tidegate.Seq) Segment { return Segment{First: first, Last: last, Epoch: 1} }
	b := Branch{Segments: []Segment{seg(1, 10), seg(11, 20), seg(19, 30), seg(31, 40), seg(41, 50), seg(45, 60), seg(61, 70)}}
	kept := Retained{From: 55, Islands: []Range{{22, 25}}}
	branch, aside := kept.Segments(b, []Segment{seg(5, 30), seg(50, 60)})
	if got := fmt.Sprint(branch, aside); got != "[1-10@1 31-40@1] [5-30@1]" {
		t.Error(got)
	}
	kept.Held = "nothing goes"
	if branch, aside := kept.Segments(b, nil); len(branch)+len(aside) > 0 {
		t.Error("held, and something goes")
	}
}

func TestRemovedDocument(t *testing.T) {
	var r Removed
	r.addLog([]Segment{{First: 1, Last: 10, Epoch: 1}, {First: 11, Last: 20, Epoch: 2, Chain: tidegate.Chain{2}}})
	r.addLog([]Segment{{First: 31, Last: 40, Epoch: 3}})
	r.addScars(Hole{25, 27})
	b := Branch{Holes: []Hole{{1, 27}, {30, 45}}}
	if got := fmt.Sprintf("%d", r.holes(b)); got != "[{21 27} {30 30} {41 45}]" {
		t.Errorf("holes: %s", got)
	}
	for i := range 2 * removedBasesMax {
		r.addBase(snapshot.Name{byte(i), byte(i >> 8)})
	}
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseRemoved(theStream, text)
	if err != nil || len(again.Log) != 2 || again.Log[0] != (Gone{1, 20, 2, tidegate.Chain{2}}) || !again.hasBase(snapshot.Name{255, 1}) || again.hasBase(snapshot.Name{1}) {
		t.Errorf("%+v, %v", again, err)
	}
	r.addLog([]Segment{{First: 21, Last: 30, Epoch: 3}})
	if len(r.Log) != 1 || r.Log[0].Last != 40 {
		t.Errorf("what touches is one: %+v", r.Log)
	}
	for _, bad := range []string{`{`, `{"version":2}`, `{"version":1,"log":[{"first":"0000000000000002","last":"0000000000000001","epoch":1,"chain":"00000000000000000000000000000000"}]}`} {
		if _, err := ParseRemoved(theStream, []byte(bad)); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// TestWhatWasRemovedIsNotMissed: a node whose log still has what a rule has let go
// neither uploads it again nor calls it a hole.
func TestWhatWasRemovedIsNotMissed(t *testing.T) {
	b := newBench(t)
	b.append(90)
	for commit := tidegate.Seq(30); commit <= 90; commit += 30 { // three segments
		b.now.Commit = commit
		b.steps()
		b.clk.Advance(b.w.policy.Every)
		b.steps()
	}
	gone := Gone{First: 31, Last: 60, Epoch: 5, Chain: b.chains[60]}
	if err := b.b.Remove(t.Context(), gone.segment().Name(theStream)); err != nil {
		t.Fatal(err)
	}
	text, err := Removed{Log: []Gone{gone}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.w.put(t.Context(), RemovedName(theStream), text, bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	put := len(b.b.put)
	b.w = NewWriter(theStream, Mirror{Node: "other", Incarnation: tidegate.Incarnation{2}}, b.w.policy, b.w.Deps)
	for range 2 { // it looks, and takes over
		b.steps()
		b.clk.Advance(b.w.policy.Lease)
	}
	b.steps()
	for _, o := range b.b.put[put:] {
		if strings.HasPrefix(o, LogPrefix(theStream)) {
			t.Errorf("%s was put", o)
		}
	}
	if st := b.w.Status(); !st.Archivist || !st.Known || st.Next != 91 || len(st.Holes) > 0 {
		t.Errorf("%+v", st)
	}
}
