package recovery

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestExpected(t *testing.T) {
	full := Setup{IDs: true, Gate: true, Dedup: true}
	for _, test := range []struct {
		approach Approach
		class    Class
		with     Setup
		want     Type
	}{
		{PassiveStandby, Deterministic, Setup{}, Repeating},
		{PassiveStandby, Deterministic, full, Precise},
		{ActiveStandby, Repeatable, full, Precise},
		{UpstreamBackup, Repeatable, full, Precise},
		// What differs is not mended by being dropped when it comes again.
		{UpstreamBackup, Deterministic, full, Divergent},
		{UpstreamBackup, ConvergentCapable, full, Convergent},
		{ActiveStandby, Arbitrary, full, Divergent},
		{ActiveStandby, Arbitrary, Setup{IDs: true, Gate: true, Dedup: true, Determinants: true}, Precise},
		{PassiveStandby, Arbitrary, Setup{Determinants: true}, Repeating},
		{Amnesia, Repeatable, full, Gap},
		{PassiveStandby, Deterministic, Setup{IDs: true, Dedup: true}, Repeating},
		{PassiveStandby, Deterministic, Setup{IDs: true, Gate: true}, Repeating},
		{PassiveStandby, Deterministic, Setup{Gate: true, Dedup: true}, Repeating},
		{PassiveStandby, Deterministic, Setup{IDs: true, Gate: true, Dedup: true, MayLose: true}, Gap},
		{PassiveStandby, ClassUnknown, full, Unknown},
		{ApproachUnknown, Deterministic, full, Unknown},
	} {
		s := test.with
		s.Approach, s.Class = test.approach, test.class
		if got := Expected(s); got != test.want {
			t.Errorf("%+v: got %s, want %s", s, got, test.want)
		}
	}
	// A stronger class never gives less.
	for _, row := range Table() {
		for i, c := range Classes() {
			if i > 0 && row.For(c) < row.For(c-1) {
				t.Errorf("%s: %s gives %s, less than %s", row.Approach, c, row.For(c), c-1)
			}
		}
	}
}

func TestCompose(t *testing.T) {
	for _, test := range []struct {
		of   []Class
		want Class
	}{
		{nil, ClassUnknown},
		{[]Class{Repeatable, Repeatable}, Repeatable},
		{[]Class{Repeatable, Deterministic, ConvergentCapable}, Deterministic},
		{[]Class{Repeatable, ClassUnknown}, ClassUnknown},
		{[]Class{Arbitrary, ClassUnknown}, Arbitrary},
	} {
		if got := Compose(test.of...); got != test.want {
			t.Errorf("%v: got %s, want %s", test.of, got, test.want)
		}
	}
}

func TestCompare(t *testing.T) {
	known := func(is Type) Result { return Result{Type: is, AtBest: is} }
	for _, test := range []struct {
		name                string
		predicted, required Type
		observed            Result
		want                Outcome
		says                string
	}{
		{"as predicted", Repeating, Repeating, known(Repeating), Holds, ""},
		{"nothing required", Repeating, Unknown, known(Repeating), Holds, ""},
		{"stronger than required", Precise, Repeating, known(Precise), Holds, ""},
		{"weaker than predicted", Precise, Gap, known(Repeating), Failed, "weaker than the predicted precise"},
		{"weaker than required", Gap, Repeating, known(Gap), Failed, "observed gap is weaker than the required repeating"},
		{"lucky", Divergent, Divergent, known(Precise), Lucky, "lucky, not guaranteed"},
		{"lucky against a requirement that is not predicted", Divergent, Precise, known(Precise), Lucky, "the predicted divergent is weaker than the required precise"},
		{"unknown", Repeating, Repeating, Result{}, Undecided, "not known"},
		{"unknown, but too weak", Precise, Unknown, Result{AtBest: Repeating}, Failed, "observed at best repeating is weaker than the predicted precise"},
		{"unknown, perhaps enough", Convergent, Convergent, Result{AtBest: Repeating}, Undecided, "not known"},
		{"nothing to compare with", Unknown, Unknown, known(Precise), Undecided, "nothing is required"},
		{"not predicted, but required", Unknown, Repeating, known(Precise), Lucky, "nothing is predicted"},
		{"not predicted, and less than required", Unknown, Repeating, known(Gap), Failed, "weaker than the required"},
	} {
		c := Compare(test.predicted, test.required, test.observed)
		if c.Outcome != test.want || !strings.Contains(strings.Join(c.Reasons, "; "), test.says) {
			t.Errorf("%s: got %s %q, want %s %q", test.name, c.Outcome, c.Reasons, test.want, test.says)
		}
		if (c.Outcome == Holds) != (len(c.Reasons) == 0) {
			t.Errorf("%s: %s with reasons %q", test.name, c.Outcome, c.Reasons)
		}
	}
	b, err := json.Marshal(Compare(Precise, Repeating, known(Repeating)))
	const want = `{"predicted":"precise","required":"repeating","observed":"repeating","at_best":"repeating","outcome":"failed","reasons":["observed repeating is weaker than the predicted precise"]}`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v, want %s", b, err, want)
	}
}

func TestNames(t *testing.T) {
	for typ := Unknown; typ <= Precise; typ++ {
		var back Type
		if b, err := typ.MarshalText(); err != nil || back.UnmarshalText(b) != nil || back != typ {
			t.Errorf("%s: read back %s, %v", typ, back, err)
		}
	}
	for c := ClassUnknown; c <= Repeatable; c++ {
		var back Class
		if b, err := c.MarshalText(); err != nil || back.UnmarshalText(b) != nil || back != c {
			t.Errorf("%s: read back %s, %v", c, back, err)
		}
	}
	for a := ApproachUnknown; a <= ActiveStandby; a++ {
		var back Approach
		if b, err := a.MarshalText(); err != nil || back.UnmarshalText(b) != nil || back != a {
			t.Errorf("%s: read back %s, %v", a, back, err)
		}
	}
	var typ Type
	if err := typ.UnmarshalText([]byte("Precise")); err == nil {
		t.Error("an unknown name was read")
	}
	if _, err := Type(6).MarshalText(); err == nil {
		t.Error("a type that is none was written")
	}
	required := map[string]Type{"": Unknown, "gap-ok": Gap, "divergent": Divergent, "convergent": Convergent, "repeating": Repeating, "precise": Precise}
	for text, want := range required {
		if got, err := ParseRequired(text); err != nil || got != want {
			t.Errorf("required %q: got %s, %v, want %s", text, got, err, want)
		}
	}
	for _, bad := range []string{"gap", "unknown", "exactly-once"} {
		if _, err := ParseRequired(bad); err == nil {
			t.Errorf("%q was taken for a requirement", bad)
		}
	}
	if !slices.Equal(Classes(), []Class{Arbitrary, Deterministic, ConvergentCapable, Repeatable}) {
		t.Error("classes are out of order")
	}
}
