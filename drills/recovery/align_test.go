package recovery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

func digests(text string) (out []tidegate.Digest) {
	for word := range strings.FieldsSeq(text) {
		out = append(out, DigestOf([]byte(word)))
	}
	return out
}

func TestAlign(t *testing.T) {
	const golden = "1 2 3 4 5 6 7 8 9"
	same := strings.Repeat("s ", 9)
	for _, test := range []struct {
		name, before, after, golden, want string
		fits, least, most                 int
	}{
		{"precise", "1 2 3", "4 5 6", golden, "precise", 1, 0, 0},
		{"repeating by 2", "1 2 3", "2 3 4", golden, "repeating", 1, 2, 2},
		{"convergent", "1 2 3", "2x 3x 4 5", golden, "convergent, with (partial)", 0, 0, 0},
		{"convergent beyond before", "1 2 3", "4x 5x 6 7", golden, "convergent (partial)", 0, 0, 0},
		{"divergent", "1 2 3", "2x 3x 4x", golden, "divergent up to 30s (partial)", 0, 0, 0},
		{"divergent at the end", "1 2 3", "4 5 6x 7x", golden, "divergent up to 30s (partial)", 0, 0, 0},
		{"gap", "1 2 3", "5 6", golden, "gap", 1, 0, 0},
		{"a hole inside", "1 2 3", "4 6 7", golden, "gap (partial)", 0, 0, 0},
		{"a hole, and again", "1 2 3", "3 4 6 7", golden, "gap, with duplicates (partial)", 0, 1, 1},
		{"a hole, and wrong", "1 2 3", "4x 7 8", golden, "gap, with wrong (partial)", 0, 0, 0},
		{"reordered", "1 2 3", "5 4 6 7", golden, "convergent, with reordered (partial)", 0, 0, 0},
		{"one too many", "1 2 3", "4 p 5 6", golden, "convergent, with phantoms (partial)", 0, 0, 0},

		{"all the same: more or less again", "s s s s s s", "s s", same, "unknown (ambiguous)", 4, 0, 2},
		{"the same at the edge", "a s", "s b c", "a s s b c", "precise", 1, 0, 0},
		{"repeating, or nothing again", "s s s s s s", "s s s", same, "repeating (ambiguous)", 4, 0, 3},
		{"repeating, more or less", "p s s s", "s s s", "p s s s s s s", "repeating (ambiguous)", 4, 0, 3},

		{"nothing came", "1 2 3", "", golden, "unknown", 0, 0, 0},
		{"too few", "1 2 3", "4", golden, "unknown", 1, 0, 0},
		{"too few, again", "1 2 3", "3", golden, "unknown, at best repeating, with duplicates", 1, 1, 1},
		{"too few, wrong", "1 2 3", "4x", golden, "unknown, at best convergent", 0, 0, 0},
		{"not as far", "1 2 3 4 5", "2 3", golden, "unknown, at best repeating, with duplicates", 1, 4, 4},
		{"before differs", "1 2x 3", "4 5", golden, "unknown, at best convergent (partial)", 0, 0, 0},
		{"before goes on beyond", golden + " 10", "4 5", golden, "unknown, at best convergent (partial)", 0, 0, 0},
		{"no golden", "1 2 3", "2 3 4", "", "unknown (ambiguous)", 0, 0, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := Sequences{
				Stream: "eur", Before: digests(test.before), After: digests(test.after), Golden: digests(test.golden),
				Terms: Terms{MinTail: 2, Horizon: 30 * time.Second},
			}
			got, err := Align(q)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.Replace(test.want, ", with (", " (", 1)
			if a := got.Streams[0].Alignment; got.String() != want || a.Fits != test.fits || a.RollbackMin != test.least || a.RollbackMax != test.most {
				t.Errorf("got %q, %+v, want %q with %d fits and %d to %d again; %+v", got, *a, want, test.fits, test.least, test.most, got.Streams[0])
			}
		})
	}
	if _, err := Align(Sequences{}); err == nil {
		t.Error("outputs of no stream were aligned")
	}
	long := Sequences{Stream: "eur", Golden: make([]tidegate.Digest, 2*alignMax)}
	for i := range long.Golden {
		long.Golden[i] = DigestOf(fmt.Append(nil, i))
	}
	long.After = slices.Clone(long.Golden[:alignMax+1])
	long.After[7] = tidegate.Digest{}
	if got, err := Align(long); err != nil || got.String() != "unknown, at best convergent (partial)" {
		t.Errorf("more than can be searched: %q, %v", got, err)
	}
}

// TestAlignmentNeverSaysMore compares with what ids say of the same outputs: where
// contents differ from each other the two agree on what fits as a whole, and an alignment
// that is certain claims no stronger type. Behind the last output that fits nobody can
// tell what is missing from what is wrong: divergent may be a gap there.
func TestAlignmentNeverSaysMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(4, 20).Draw(t, "golden")
		contents := rapid.SampledFrom([]int{2, 5, 1000}).Draw(t, "contents")
		e := Evidence{Golden: &Golden{nil, true}, Terms: Terms{Epoch: 2, MinTail: rapid.IntRange(1, 3).Draw(t, "tail")}}
		for i := range n {
			e.Golden.Outputs = append(e.Golden.Outputs, Output{ID: ID{"eur", tidegate.Position(i), 0}, Digest: DigestOf(fmt.Append(nil, i%contents))})
		}
		cut := rapid.IntRange(0, n-2).Draw(t, "cut")
		from := rapid.IntRange(max(0, cut-5), min(n-1, cut+3)).Draw(t, "from")
		to := rapid.IntRange(from, n).Draw(t, "to")
		wrong := rapid.IntRange(0, to-from).Draw(t, "wrong")
		e.Before, e.After = e.Golden.Outputs[:cut], slices.Clone(e.Golden.Outputs[from:to])
		for i := range wrong {
			e.After[i].Digest = DigestOf(fmt.Append(nil, "wrong", i))
		}
		want, err := Classify(e)
		if err != nil {
			t.Fatal(err)
		}
		of := func(outputs []Output) (out []tidegate.Digest) {
			out = []tidegate.Digest{}
			for _, o := range outputs {
				out = append(out, o.Digest)
			}
			return out
		}
		got, err := Align(Sequences{Stream: "eur", Before: of(e.Before), After: of(e.After), Golden: of(e.Golden.Outputs), Terms: e.Terms})
		if err != nil {
			t.Fatal(err)
		}
		if contents == 1000 && wrong == 0 && got.Type != want.Type {
			t.Fatalf("%s, %v; by ids %s, %v", got, got.Reasons, want, want.Reasons)
		}
		if contents == 1000 && want.Type != Unknown && got.Type > max(want.Type, Divergent) {
			t.Fatalf("%s claims more than what ids say: %s", got, want)
		}
		if contents < 1000 && got.Confidence == Certain && want.Type != Unknown && got.Type > want.Type {
			t.Fatalf("%s is certain of more than what ids say: %s", got, want)
		}
	})
}

func TestOccurrencesAgainstSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(what string, least int) (out []tidegate.Digest) {
			for _, b := range rapid.SliceOfN(rapid.ByteRange(0, 2), least, 12).Draw(t, what) {
				out = append(out, tidegate.Digest{b})
			}
			return out
		}
		whole, part := draw("whole", 0), draw("part", 1)
		var want []int
		for i := 0; i+len(part) <= len(whole); i++ {
			if slices.Equal(whole[i:i+len(part)], part) {
				want = append(want, i)
			}
		}
		if got := occurrences(whole, part); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		k := min(len(whole), len(part))
		for ; !slices.Equal(whole[len(whole)-k:], part[:k]); k-- {
		}
		if got := overlap(whole, part); got != k {
			t.Fatalf("overlap %d, want %d", got, k)
		}
	})
}
