package recovery

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

// outs reads outputs of stream "eur": "3" is the output of input 3 as it is due, "3x" one
// with another content; "@1" behind it is its epoch, otherwise epoch.
func outs(tb testing.TB, epoch tidegate.Epoch, text string) []Output {
	tb.Helper()
	out := []Output{}
	for word := range strings.FieldsSeq(text) {
		o := Output{Epoch: epoch, At: time.Duration(len(out)) * time.Millisecond}
		word, at, has := strings.Cut(word, "@")
		if has {
			if _, err := fmt.Sscan(at, &o.Epoch); err != nil {
				tb.Fatal(err)
			}
		}
		var n int
		if _, err := fmt.Sscanf(word, "%d", &n); err != nil {
			tb.Fatalf("output %q: %v", word, err)
		}
		o.ID = ID{Stream: "eur", Input: tidegate.Position(n)}
		o.Digest = DigestOf([]byte(word))
		out = append(out, o)
	}
	return out
}

func evidence(tb testing.TB, before, after, golden string) Evidence {
	tb.Helper()
	return Evidence{
		Before: outs(tb, 1, before), After: outs(tb, 2, after), Golden: &Golden{outs(tb, 0, golden), true},
		Terms: Terms{Epoch: 2, Timed: true, MinTail: 2, Horizon: 30 * time.Second},
	}
}

// TestClassify has every type, every hybrid and everything that keeps a type from being
// claimed.
func TestClassify(t *testing.T) {
	const golden = "1 2 3 4 5 6 7 8 9"
	tests := []struct {
		name                  string
		before, after, golden string
		change                func(*Evidence)
		want                  string
	}{
		{"precise", "1 2 3", "4 5 6", golden, nil, "precise"},
		{"repeating", "1 2 3", "2 3 4", golden, nil, "repeating"},
		{"convergent", "1 2 3", "2x 3 4", golden, nil, "convergent"},
		{"convergent, new ones wrong", "1 2 3", "4x 5x 6 7", golden, nil, "convergent"},
		{"divergent", "1 2 3", "2x 3x 4x", golden, nil, "divergent up to 30s"},
		{"divergent, tail too short", "1 2 3", "4x 5x 6x 7", golden, nil, "divergent up to 30s"},
		{"gap", "1 2 3", "5 6", golden, nil, "gap"},
		{"gap before the failure", "1 3", "4 5", golden, nil, "gap"},

		{"gap and duplicates", "1 2 3", "3 5 6", golden, nil, "gap, with duplicates"},
		{"gap and other duplicates", "1 2 3", "3x 5 6", golden, nil, "gap, with duplicates, duplicates-differ"},
		{"gap and wrong ones", "1 2 3", "5x 6 7", golden, nil, "gap, with wrong"},
		{"convergent and a phantom", "1 2 3", "4 40 5 6", "1 2 3 4 5 6", nil, "convergent, with phantoms"},
		{"reordered, then right", "1 2 3", "5 4 6 7", golden, nil, "convergent, with reordered"},
		{"reordered until the end", "1 2 3", "5 4 7 6", golden, nil, "divergent up to 30s, with reordered"},
		{"a hole of before, filled late", "1 3", "2 4 5 6", golden, nil, "convergent, with reordered"},
		{"twice by the new writer", "1 2 3", "4 5 4 5 6", golden, nil, "repeating"},
		{"back within after", "1 2 3", "4 5 6 4x 5 6 7", golden, nil, "convergent"},

		{"undone", "1 2 3 4", "5 6", "1 2 3 5 6", nil, "gap, with undone"},
		{"undone and repeated", "1 2 3 4", "3 5 6", "1 2 3 5 6", nil, "gap, with undone, duplicates"},
		{"replaced, and passed over", "1 2 3y", "4 5 6", golden, nil, "gap, with before-differs"},
		{"replaced, and sent again", "1 2 3y", "3 4 5", golden, nil, "gap, with before-differs, duplicates, duplicates-differ"},
		{"nothing is as in the golden", "1x 2x 3x", "3y 4x 5x", golden, nil, "divergent up to 30s, with before-differs"},
		{
			"lost", "1 2 3", "4 5 6", golden, func(e *Evidence) { e.Lost = outs(t, 0, "4z") },
			"gap, with lost",
		},
		{"nothing lost", "1 2 3", "4 5 6", golden, func(e *Evidence) { e.Lost = []Output{} }, "precise"},

		{"stale, delivered", "1 2 3", "4 5 3@1 6", golden, nil, "repeating, with stale"},
		{"stale, of an input that is gone", "1 2 3", "4 5 4x@1 6 7", golden, nil, "gap, with before-differs, duplicates, duplicates-differ, stale"},
		{"stale, turned away", "1 2 3", "4 5 4x@1 6", golden, func(e *Evidence) { e.StaleRefused = true }, "precise, with stale"},
		{"retransmits", "1 2 2 3", "4 4 4 5 6", golden, nil, "precise"},
		{"twice in a row, by two writers", "1 2 3", "4 4@3 5@3 6@3", golden, nil, "repeating"},
		{"again, but not in a row", "1 2 3", "4 5 4 5", golden, nil, "repeating"},

		{"nothing came", "1 2 3", "", golden, nil, "unknown"},
		{"nothing came, and something is missing", "1 3", "", golden, nil, "unknown, at best gap, with missing"},
		{"nothing was there before", "", "1 2 3", golden, nil, "precise"},
		{"nothing was there before, nor the first", "", "2 3", golden, nil, "gap"},
		{"too few", "1 2 3", "4", golden, nil, "unknown"},
		{"too few, and again", "1 2 3", "3", golden, nil, "unknown, at best repeating, with duplicates"},
		{"too few, and wrong", "1 2 3", "4x", golden, nil, "unknown, at best convergent, with wrong"},
		{"too few, but a gap", "1 2 3", "5", golden, nil, "gap"},
		{"not as far as before", "1 2 3 4 5", "2 3", golden, nil, "unknown, at best repeating, with duplicates"},

		{"no golden", "1 2 3", "4 5 6", "", noGolden, "unknown"},
		{"no golden, again", "1 2 3", "3 4 5", "", noGolden, "unknown, at best repeating, with duplicates"},
		{"no golden, other ones again", "1 2 3", "3x 4 5", "", noGolden, "unknown, at best convergent, with duplicates, duplicates-differ"},
		{"no golden, reordered", "1 2 3", "5 4", "", noGolden, "unknown, at best convergent, with reordered"},
		{"ids alone", "1 2 3", "4 5x 6", golden, idsAlone, "unknown"},
		{"ids alone, gap", "1 2 3", "5x 6", golden, idsAlone, "gap"},

		{"upgrade", "1a 2a 3a", "3 4 5", golden, func(e *Evidence) {
			e.OldGolden = &Golden{outs(t, 0, "1a 2a 3a 4a 5a"), true}
		}, "repeating, with upgraded"},
		{"upgrade, and wrong", "1a 2a 3a", "3x 4 5", golden, func(e *Evidence) {
			e.OldGolden = &Golden{outs(t, 0, "1a 2a 3a 4a 5a"), true}
		}, "convergent"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := evidence(t, test.before, test.after, test.golden)
			if test.change != nil {
				test.change(&e)
			}
			got, err := Classify(e)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != test.want {
				b, _ := json.MarshalIndent(got, "", "  ")
				t.Errorf("got %q, want %q\n%s", got, test.want, b)
			}
			if e.Golden == nil || !e.Golden.Content {
				if b, err := json.Marshal(got); err != nil || strings.Contains(string(b), "precise") {
					t.Errorf("%v: says precise without a golden: %s", err, b)
				}
			}
		})
	}
}

func noGolden(e *Evidence) { e.Golden = nil }
func idsAlone(e *Evidence) { e.Golden.Content = false }

// TestVector pins the whole vector, and its form in JSON, which lies in signed evidence.
func TestVector(t *testing.T) {
	for name, e := range map[string]Evidence{
		"hybrid": {
			Before: outs(t, 1, "1 2 3 4 5 5"), After: outs(t, 2, "3x 4 6x 8 9 5@1 10 11 9x@1"), Golden: &Golden{outs(t, 0, "1 2 3 4 5 6 7 8 9 10 11 12"), true},
			Lost: []Output{}, Terms: Terms{Epoch: 2, Timed: true, Horizon: time.Minute},
		},
		"undecidable": {Before: outs(t, 0, "1 2 3"), After: outs(t, 0, "3 4 5"), Terms: Terms{MinTail: 3}},
	} {
		r, err := Classify(e)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil { //nolint:gosec // a file of the repository
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)+"\n"); d != "" {
			t.Errorf("%s: what is signed has another form now (UPDATE=1 writes it): %s", name, d)
		}
		var back Result
		if err := json.Unmarshal(got, &back); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(r, back); d != "" {
			t.Errorf("%s: read back: %s", name, d)
		}
	}
}

func TestStreamsTogether(t *testing.T) {
	of := func(stream tidegate.StreamName, outputs []Output) []Output {
		for i := range outputs {
			outputs[i].ID.Stream = stream
		}
		return outputs
	}
	two := func(afterEUR, afterUSD string) Evidence {
		e := evidence(t, "1 2 3", afterEUR, "1 2 3 4 5 6")
		e.Before = append(e.Before, of("usd", outs(t, 1, "1 2 3"))...)
		e.Golden.Outputs = append(of("usd", outs(t, 0, "1 2 3 4 5 6")), e.Golden.Outputs...)
		// Mixed, as they come: order is a matter of each stream by itself.
		e.After = append(of("usd", outs(t, 2, afterUSD)), e.After...)
		return e
	}
	for _, test := range []struct{ eur, usd, want string }{
		{"4 5", "4 5", "precise"},
		{"4 5", "3 4 5", "repeating"},
		{"3 4 5", "4x 5x", "divergent up to 30s"},
		{"4 5", "", "unknown"},
		{"4x 5x", "", "unknown, at best divergent, with wrong"},
		{"5 6", "", "gap"},
		{"5 6", "3 4", "gap, with duplicates"},
	} {
		got, err := Classify(two(test.eur, test.usd))
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != test.want || len(got.Streams) != 2 || got.Streams[0].Stream != "eur" {
			t.Errorf("eur %q, usd %q: got %q, want %q of 2 streams", test.eur, test.usd, got, test.want)
		}
	}
	if got, err := Classify(Evidence{}); err != nil || got.Type != Unknown || len(got.Reasons) == 0 {
		t.Errorf("no evidence: %q, %v, %v", got, got.Reasons, err)
	}
}

func TestEvidenceThatContradictsItself(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Evidence)
		want   string
	}{
		{"golden twice", func(e *Evidence) { e.Golden.Outputs = outs(t, 0, "1 2 2x 3") }, "classify recovery: golden: output eur/0000000000000002/0 is due behind eur/0000000000000002/0"},
		{"old golden twice", func(e *Evidence) { e.OldGolden = &Golden{outs(t, 0, "1 2 2"), true} }, "classify recovery: old golden: output eur/0000000000000002/0"},
		{"before of the new epoch", func(e *Evidence) { e.Before = outs(t, 2, "1") }, "classify recovery: before: output eur/0000000000000001/0 of epoch 2"},
		{"no stream", func(e *Evidence) { e.After[0].ID.Stream = "" }, "classify recovery: after: output id: stream"},
	} {
		e := evidence(t, "1 2", "3 4", "1 2 3 4")
		test.change(&e)
		if _, err := Classify(e); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
	c := New(Settings{})
	for what, err := range map[string]error{
		"golden": c.Golden(outs(t, 0, "1")[0]), "old golden": c.OldGolden(outs(t, 0, "1")[0]), "lost": c.Lost(outs(t, 0, "1")[0]),
	} {
		if err == nil {
			t.Errorf("%s: taken, although the settings say that there is none", what)
		}
	}
	c.Result()
	if err := c.After(outs(t, 0, "1")[0]); err == nil {
		t.Error("an output was taken after the result")
	}
}

func TestIDText(t *testing.T) {
	id := ID{"eur", 0x10a3, 7}
	if got, err := ParseID(id.String()); err != nil || got != id || id.String() != "eur/00000000000010a3/7" {
		t.Errorf("%s: read back %v, %v", id, got, err)
	}
	for _, bad := range []string{"", "eur", "eur/00000000000010a3", "eur/10a3/7", "eur/00000000000010a3/07", "eur/00000000000010a3/-1", "Eur/00000000000010a3/7", "eur/00000000000010a3/4294967296", "eur/00000000000010a3/7/"} {
		if got, err := ParseID(bad); err == nil {
			t.Errorf("%q: read as %v", bad, got)
		}
	}
	if _, err := (ID{}).MarshalText(); err == nil {
		t.Error("an id of no stream was written")
	}
}

func TestDigestJSON(t *testing.T) {
	digest := func(content string) tidegate.Digest {
		t.Helper()
		d, err := DigestJSON([]byte(content), "sent", "meta.sent", "gone.deeper")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	want := digest(`{"sum":1,"meta":{"node":"a"}}`)
	for _, same := range []string{
		`{ "meta":{"sent":5,"node":"a"}, "sum":1, "sent":"now" }`,
		"{\"sum\":1,\n\"meta\":{\"node\":\"a\",\"sent\":null}}",
	} {
		if digest(same) != want {
			t.Errorf("%s differs", same)
		}
	}
	for _, other := range []string{`{"sum":1.0,"meta":{"node":"a"}}`, `{"sum":1,"meta":{"node":"b"}}`, `{"sum":1}`, `{"sum":9007199254740993}`} {
		if digest(other) == want {
			t.Errorf("%s is the same", other)
		}
	}
	for _, bad := range []string{"", "null", "[1]", "1", `{"a":1} {"b":2}`, `{"a":1`, `{"a":1}x`} {
		if _, err := DigestJSON([]byte(bad)); err == nil {
			t.Errorf("%q was digested", bad)
		}
	}
}
