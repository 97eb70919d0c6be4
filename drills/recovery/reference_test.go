package recovery

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

// sent is a delivery as the reference sees it: all of them lie in one slice, and each
// question is answered by going through it.
type sent struct {
	Output

	old bool
}

// reference is [Classify] for one stream by brute force, without an old program: every
// definition of doc.go as it stands.
func reference(e Evidence) (typ, atBest Type, also []Symptom) {
	r := &refer{due: map[place]tidegate.Digest{}, content: e.Golden != nil && e.Golden.Content, golden: e.Golden != nil}
	if e.Golden != nil {
		for _, o := range e.Golden.Outputs {
			r.due[o.ID.place()] = o.Digest
		}
	}
	stale, staleSeen := 0, 0
	for _, o := range once(e.Before) {
		r.all = append(r.all, sent{o, true})
	}
	var mine, theirs []Output
	for _, o := range e.After {
		if o.Epoch != 0 && o.Epoch < e.Epoch {
			theirs = append(theirs, o)
		} else {
			mine = append(mine, o)
		}
	}
	// A retransmit is one of the same sender's.
	keep := map[*Output]bool{}
	for _, part := range [][]Output{mine, theirs} {
		for i := range part {
			if i == 0 || part[i].ID != part[i-1].ID || part[i].Digest != part[i-1].Digest || part[i].Epoch != part[i-1].Epoch {
				keep[&part[i]] = true
			}
		}
	}
	m, th := 0, 0
	for _, o := range e.After {
		old := o.Epoch != 0 && o.Epoch < e.Epoch
		var kept bool
		if old {
			kept = keep[&theirs[th]]
			th++
		} else {
			kept = keep[&mine[m]]
			m++
		}
		switch {
		case !kept:
		case old:
			stale++
			if !e.StaleRefused {
				staleSeen++
				r.all = append(r.all, sent{o, true})
			}
		default:
			r.all = append(r.all, sent{o, false})
		}
	}
	lost := len(e.Lost)
	return r.verdict(max(e.MinTail, 1), stale, staleSeen, lost)
}

func once(in []Output) (out []Output) {
	for i, o := range in {
		if i == 0 || o.ID != in[i-1].ID || o.Digest != in[i-1].Digest || o.Epoch != in[i-1].Epoch {
			out = append(out, o)
		}
	}
	return out
}

type refer struct {
	due             map[place]tidegate.Digest
	golden, content bool
	all             []sent
}

// earlier returns the deliveries of the same id before the i-th.
func (r *refer) earlier(i int) (out []sent) {
	for _, o := range r.all[:i] {
		if o.ID == r.all[i].ID {
			out = append(out, o)
		}
	}
	return out
}

func (r *refer) placed(o sent) bool {
	_, due := r.due[o.ID.place()]
	return due || !r.golden
}

// high is the highest place of deliveries that are placed, among those that pick picks.
func (r *refer) high(all []sent, pick func(sent) bool) (high place, is bool) {
	for _, o := range all {
		if r.placed(o) && pick(o) && (!is || high.less(o.ID.place())) {
			high, is = o.ID.place(), true
		}
	}
	return high, is
}

func anyone(sent) bool      { return true }
func newWriter(o sent) bool { return !o.old }

// late reports whether the i-th comes behind one that comes later: a first delivery
// behind any, one of the new writer behind one that it sent since it last went back.
func (r *refer) late(i int) bool {
	o := r.all[i]
	if !r.placed(o) {
		return false
	}
	before := r.earlier(i)
	if len(before) == 0 {
		if high, is := r.high(r.all[:i], anyone); is && o.ID.place().less(high) {
			return true
		}
	}
	if o.old || slices.ContainsFunc(before, newWriter) {
		return false
	}
	for j := i - 1; j >= 0; j-- {
		p := r.all[j]
		if p.old || !r.placed(p) {
			continue
		}
		if o.ID.place().less(p.ID.place()) {
			return true
		}
		if slices.ContainsFunc(r.earlier(j), newWriter) {
			return false
		}
	}
	return false
}

func (r *refer) tail() (n int) {
	from := 0
	var bad place
	badIs := false
	worse := func(p place, is bool) {
		if is && (!badIs || bad.less(p)) {
			bad, badIs = p, true
		}
	}
	for i, o := range r.all {
		if o.old {
			continue
		}
		want, due := r.due[o.ID.place()]
		switch {
		case r.late(i):
			from = i + 1
			worse(r.runHigh(i))
		case !due:
			from = i + 1
		case want != o.Digest:
			from = i + 1
			worse(o.ID.place(), true)
		}
	}
	last, any := place{}, false
	for _, o := range r.all[from:] {
		p := o.ID.place()
		if o.old || badIs && !bad.less(p) || any && !last.less(p) {
			continue
		}
		last, any = p, true
		n++
	}
	return n
}

// runHigh is the highest that the new writer sent since it last went back.
func (r *refer) runHigh(i int) (high place, is bool) {
	for j := i; j >= 0; j-- {
		p := r.all[j]
		if p.old || !r.placed(p) {
			continue
		}
		if !is || high.less(p.ID.place()) {
			high, is = p.ID.place(), true
		}
		if slices.ContainsFunc(r.earlier(j), newWriter) {
			break
		}
	}
	return high, is
}

func (r *refer) verdict(minTail, stale, staleSeen, lost int) (typ, atBest Type, also []Symptom) {
	n := map[Symptom]int{Lost: lost, Stale: stale}
	ids, after := map[place]bool{}, 0
	for i, o := range r.all {
		want, due := r.due[o.ID.place()]
		before := r.earlier(i)
		if !o.old {
			ids[o.ID.place()] = true
			after++
		}
		if r.late(i) {
			n[Reordered]++
		}
		if len(before) > 0 {
			n[Duplicates]++
			if before[len(before)-1].Digest != o.Digest {
				n[DuplicatesDiffer]++
			}
		}
		switch {
		case r.golden && !due && o.old:
			n[Undone]++
		case r.golden && !due:
			n[Phantoms]++
		case r.content && o.old && want != o.Digest:
			n[BeforeDiffers]++
		case r.content && len(before) == 0 && want != o.Digest:
			n[Wrong]++
		}
	}
	high, highIs := r.high(r.all, anyone)
	for p := range r.due {
		if highIs && !high.less(p) && !slices.ContainsFunc(r.all, func(o sent) bool { return o.ID.place() == p }) {
			n[Missing]++
		}
	}
	deviations := n[BeforeDiffers] + n[DuplicatesDiffer] + n[Wrong] + n[Phantoms] + n[Reordered]
	newHigh, newIs := r.high(r.all, newWriter)
	arrived := !highIs || newIs && !newHigh.less(high)
	typ, atBest = func() (Type, Type) {
		open := Unknown
		switch {
		case n[Missing]+n[Lost]+n[Undone] > 0:
			open = Gap
		case deviations > 0:
			open = Convergent
		case n[Duplicates]+staleSeen > 0:
			open = Repeating
		}
		switch {
		case after == 0:
			return Unknown, open
		case open == Gap:
			return Gap, Gap
		case !r.content, len(ids) < minTail:
			return Unknown, open
		case open == Convergent && (r.tail() < minTail || !arrived):
			return Divergent, Divergent
		case open == Convergent && n[BeforeDiffers] > 0:
			return Gap, Gap
		case open == Convergent:
			return Convergent, Convergent
		case !arrived:
			return Unknown, open
		case open == Repeating:
			return Repeating, Repeating
		}
		return Precise, Precise
	}()
	said := map[Type][]Symptom{
		Gap: {Missing}, Repeating: {Duplicates},
		Divergent: {Duplicates, DuplicatesDiffer, Wrong}, Convergent: {Duplicates, DuplicatesDiffer, Wrong},
	}
	also = []Symptom{}
	for _, s := range symptoms() {
		if n[s] > 0 && !slices.Contains(said[typ], s) {
			also = append(also, s)
		}
	}
	return typ, atBest, also
}

// drawEvidence draws evidence of one stream, mostly near to something a service does: a
// golden, what was delivered of it, a takeover further back or ahead, and changes.
func drawEvidence(t *rapid.T) Evidence {
	n := rapid.IntRange(0, 14).Draw(t, "golden")
	golden := make([]Output, 0, n)
	for i := range n {
		id := ID{"eur", tidegate.Position(i / 2), uint32(i % 2)}
		golden = append(golden, Output{ID: id, Digest: DigestOf(fmt.Append(nil, i))})
	}
	cut := rapid.IntRange(0, n).Draw(t, "cut")
	back := rapid.IntRange(max(0, cut-4), min(n, cut+2)).Draw(t, "back")
	end := rapid.IntRange(back, n).Draw(t, "end")
	e := Evidence{
		Before: change(t, golden[:cut], 1, "before"), After: change(t, golden[back:end], 2, "after"),
		Golden: &Golden{golden, true},
		Terms:  Terms{Epoch: 2, MinTail: rapid.IntRange(0, 4).Draw(t, "tail"), StaleRefused: rapid.Bool().Draw(t, "refused"), Horizon: time.Second},
	}
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		e.Golden = nil
	case 1:
		e.Golden.Content = false
	case 2:
		e.Lost = []Output{{ID: ID{"eur", 99, 0}}}
	}
	return e
}

func change(t *rapid.T, due []Output, epoch tidegate.Epoch, what string) []Output {
	out := slices.Clone(due)
	for i := range out {
		out[i].Epoch = epoch
	}
	for range rapid.IntRange(0, 3).Draw(t, what+" changes") {
		if len(out) == 0 {
			break
		}
		i := rapid.IntRange(0, len(out)-1).Draw(t, what+" at")
		j := rapid.IntRange(0, len(out)-1).Draw(t, what+" other")
		switch rapid.IntRange(0, 5).Draw(t, what+" change") {
		case 0:
			out = slices.Delete(out, i, i+1)
		case 1:
			out[i].Digest = DigestOf(fmt.Append(nil, "x", rapid.IntRange(0, 1).Draw(t, what+" content")))
		case 2:
			out[i], out[j] = out[j], out[i]
		case 3:
			out = slices.Insert(out, i, out[j])
		case 4:
			out[i].ID.Ordinal += 2 // of nothing
		case 5:
			if epoch > 1 {
				out[i].Epoch = 1
			}
		}
	}
	return out
}

// many draws more often than once, for these draws are cheap and their cases many.
func many(t *testing.T, f func(*rapid.T)) {
	t.Helper()
	for range 5 {
		rapid.Check(t, f)
	}
}

func TestClassifyAgainstReference(t *testing.T) {
	seen := map[Type]int{}
	many(t, func(t *rapid.T) {
		e := drawEvidence(t)
		if len(e.Before)+len(e.After)+len(e.Lost) == 0 && (e.Golden == nil || len(e.Golden.Outputs) == 0) {
			return
		}
		got, err := Classify(e)
		if err != nil {
			t.Fatal(err)
		}
		typ, best, also := reference(e)
		v := got.Streams[0]
		if v.Type != typ || v.AtBest != best || cmp.Diff(also, v.Also) != "" {
			t.Fatalf("got %s at best %s with %v, the reference says %s at best %s with %v", v.Type, v.AtBest, v.Also, typ, best, also)
		}
		seen[typ]++
	})
	for typ := Unknown; typ <= Precise; typ++ {
		if seen[typ] == 0 {
			t.Errorf("the draws gave no %s", typ)
		}
	}
}

// TestStreamingIsTheSame feeds the same evidence mixed: what is due, just ahead of what
// came or far ahead. What is forgotten may make a type unknown, never stronger.
func TestStreamingIsTheSame(t *testing.T) {
	forgot, same := 0, 0
	many(t, func(t *rapid.T) {
		e := drawEvidence(t)
		if e.Golden == nil {
			return
		}
		want, err := Classify(e)
		if err != nil {
			t.Fatal(err)
		}
		s := Settings{Terms: e.Terms, Due: DueIDs, OldLog: e.Lost != nil, KeepMax: rapid.IntRange(0, 4).Draw(t, "keep")}
		if e.Golden.Content {
			s.Due = DueContent
		}
		c := New(s)
		take := func(f func(Output) error, from *[]Output) {
			if err := f((*from)[0]); err != nil {
				t.Fatal(err)
			}
			*from = (*from)[1:]
		}
		golden, before, after := e.Golden.Outputs, e.Before, e.After
		for len(golden)+len(before)+len(after) > 0 {
			switch due := rapid.Bool().Draw(t, "due"); {
			case len(golden) > 0 && (due || len(before)+len(after) == 0):
				take(c.Golden, &golden)
			case len(before) > 0:
				take(c.Before, &before)
			case len(after) > 0:
				take(c.After, &after)
			}
		}
		for _, o := range e.Lost {
			if err := c.Lost(o); err != nil {
				t.Fatal(err)
			}
		}
		got := c.Result()
		if len(got.Streams) > 0 && got.Streams[0].DupDiff == nil {
			if forgot++; got.Type > want.Type || got.Type != Unknown && got.Type != Gap {
				t.Fatalf("got %s after forgetting, want unknown, or at most %s", got, want)
			}
			if got.AtBest != Unknown && want.Type > got.AtBest {
				t.Fatalf("got %s after forgetting, which excludes the true %s", got, want)
			}
			return
		}
		same++
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
	if forgot == 0 || same == 0 {
		t.Errorf("%d times something that came again was forgotten, %d times not: want both", forgot, same)
	}
}

// TestStreamingKeepsWhatIsWrong: only what came as it is due is forgotten, so that it is
// known later what comes again.
func TestStreamingKeepsWhatIsWrong(t *testing.T) {
	c := New(Settings{Terms: Terms{Epoch: 2}, Due: DueContent, KeepMax: 1})
	for _, part := range []struct {
		to      func(Output) error
		outputs string
		epoch   tidegate.Epoch
	}{{c.Golden, "1 2 3 4 5 6 7", 0}, {c.Before, "1x 2 3 4", 1}, {c.After, "1 5 6 7", 2}} {
		for _, o := range outs(t, part.epoch, part.outputs) {
			if err := part.to(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := c.Result(); got.String() != "gap, with before-differs, duplicates, duplicates-differ" {
		t.Errorf("got %q", got)
	}
}

// TestStreamingForgets bounds what is kept while many outputs come as they are due.
func TestStreamingForgets(t *testing.T) {
	c := New(Settings{Terms: Terms{Epoch: 2}, Due: DueContent, KeepMax: 100})
	const n = 10_000
	for i := range n {
		o := Output{ID: ID{"eur", tidegate.Position(i), 0}, Digest: tidegate.Digest{byte(i), byte(i >> 8)}}
		for _, err := range []error{c.Golden(o), c.Before(o)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if kept := c.Kept(); kept > 101 {
			t.Fatalf("%d outputs are kept after %d, want 101 at most", kept, i+1)
		}
	}
	if got := c.Result(); got.Streams[0].Before != n || got.Streams[0].Missing.Count != 0 {
		t.Errorf("got %+v", got.Streams[0])
	}
}
