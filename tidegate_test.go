package tidegate

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTextFormsAreStrict(t *testing.T) {
	parse := map[string]func(string) error{
		"seq":      func(s string) error { _, err := ParseSeq(s); return err },
		"position": func(s string) error { _, err := ParsePosition(s); return err },
		"epoch":    func(s string) error { _, err := ParseEpoch(s); return err },
		"id":       func(s string) error { _, err := ParseID(s); return err },
		"identity": func(s string) error { _, err := ParseIdentity(s); return err },
	}
	for _, tc := range []struct {
		kind, in string
		ok       bool
	}{
		{"seq", "00000000000a1f3c", true},
		{"seq", "a1f3c", false},
		{"seq", "00000000000A1F3C", false},
		{"seq", "00000000000a1f3c ", false},
		{"position", "ffffffffffffffff", true},
		{"position", "0x00000000000000", false},
		{"epoch", "7", true},
		{"epoch", "07", false},
		{"epoch", "-1", false},
		{"epoch", "18446744073709551616", false},
		{"id", strings.Repeat("0f", 16), true},
		{"id", strings.Repeat("0f", 15), false},
		{"identity", "tidegate://prod/east/agent/db1", true},
		{"identity", "tidegate://prod/east/root/db1", false},
		{"identity", "tidegate://prod/east/agent", false},
		{"identity", "https://prod/east/agent/db1", false},
		{"identity", "tidegate://prod/east/agent/Db1", false},
	} {
		if err := parse[tc.kind](tc.in); (err == nil) != tc.ok {
			t.Errorf("parse %s %q: got error %v, want ok=%v", tc.kind, tc.in, err, tc.ok)
		}
	}
}

func TestNumbersSurviveJSON(t *testing.T) {
	type all struct {
		S Seq
		P Position
		E Epoch
		I ID
		D Digest
		C Chain
	}
	in := all{1 << 60, 1<<64 - 1, 1<<63 + 1, NewID(), Digest{1, 2}, Chain{3, 4}}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out all
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if out != in {
		t.Errorf("round trip through %s: got %+v, want %+v", b, out, in)
	}
	if strings.Contains(string(b), ":1") {
		t.Errorf("%s: a 64-bit number is not a string", b)
	}
}

func TestEpochsOfDrills(t *testing.T) {
	for lineage, want := range map[Lineage]bool{
		"": false, "journal:01": false, "journal:01+7@0000000000000010": false,
		"journal:01+7@0000000000000010+" + Lineage(EpochDrillFirst.String()) + "@0000000000000020": true,
		"4611686018427387904/1": false, "pg:4611686018427387905+1@x": false,
	} {
		if got := lineage.IsDrill(); got != want {
			t.Errorf("%q: %v, want %v", lineage, got, want)
		}
	}
	if (EpochDrillFirst - 1).IsDrill() || !(EpochDrillFirst + 1).IsDrill() {
		t.Error("the range begins elsewhere")
	}
}

func TestLogPosComparesWithProof(t *testing.T) {
	a, b := Chain{1}, Chain{2}
	for _, tc := range []struct {
		p, q LogPos
		want Order
	}{
		{LogPos{1, 5, a}, LogPos{1, 6, b}, Before},
		{LogPos{1, 6, a}, LogPos{1, 5, b}, After},
		{LogPos{1, 5, a}, LogPos{1, 5, a}, Same},
		{LogPos{1, 5, a}, LogPos{2, 5, b}, Diverged},
		{LogPos{}, LogPos{}, Same},
	} {
		if got := tc.p.Compare(tc.q); got != tc.want {
			t.Errorf("%v compare %v: got %v, want %v", tc.p, tc.q, got, tc.want)
		}
	}
}

func TestClassAndHintComeFromTheOutermost(t *testing.T) {
	inner := &Error{Op: "sync", Class: Corrupt, Hint: "inner", Err: errors.New("bad block")}
	outer := fmt.Errorf("ship: %w", &Error{Op: "ship", Subject: "batch 1", Hint: "look at the disk", Err: inner})
	if got := ClassOf(outer); got != Corrupt {
		t.Errorf("class: got %q, want %q (an unclassified wrapper does not hide its cause)", got, Corrupt)
	}
	if got := HintOf(outer); got != "look at the disk" {
		t.Errorf("hint: got %q", got)
	}
	if got, want := outer.Error(), "ship: ship batch 1: sync: bad block"; got != want {
		t.Errorf("message: got %q, want %q", got, want)
	}
	for err, want := range map[error]Class{
		ErrFenced:                        Fenced,
		ErrFull:                          Transient,
		errors.New("x"):                  Permanent,
		&CorruptError{Path: "p"}:         Corrupt,
		&Error{Op: "a", Err: ErrFenced}:  Fenced,
		fmt.Errorf("a: %w", ErrConflict): Transient,
	} {
		if got := ClassOf(err); got != want {
			t.Errorf("class of %v: got %q, want %q", err, got, want)
		}
	}
}

func TestBoundsAndQuorum(t *testing.T) {
	open, err := ModeOpen.Bounds(Bounds{})
	if err != nil {
		t.Fatal(err)
	}
	sync, err := ModeSync.Bounds(Bounds{Records: 9})
	if err != nil || sync != (Bounds{}) {
		t.Fatalf("sync: got %v, %v; want zeros", sync, err)
	}
	if !open.LooserThan(sync) || sync.LooserThan(open) || sync.LooserThan(sync) {
		t.Error("open must be looser than sync and nothing looser than itself")
	}
	if _, err := ModeBounded.Bounds(Bounds{Bytes: -1}); err == nil {
		t.Error("negative bound accepted")
	}
	if _, err := Mode("loose").Bounds(Bounds{}); err == nil {
		t.Error("unknown mode accepted")
	}
	for _, tc := range []struct{ n, w, r int }{{1, 1, 1}, {2, 2, 1}, {2, 1, 2}, {3, 2, 2}, {3, 3, 1}, {5, 3, 3}, {5, 2, 4}} {
		q := Quorum{N: tc.n, W: tc.w}
		if q.Validate() != nil || q.R() != tc.r {
			t.Errorf("%+v: r = %d, err %v; want r = %d", q, q.R(), q.Validate(), tc.r)
		}
	}
	for _, q := range []Quorum{{}, {N: 3}, {N: 1, W: 2}} {
		if q.Validate() == nil {
			t.Errorf("%+v accepted", q)
		}
	}
}

func TestValidName(t *testing.T) {
	for s, ok := range map[string]bool{
		"a": true, "db-1": true, "": false, "1a": false, "a-": false, "A": false, "a_b": false, "a/b": false,
		strings.Repeat("a", NameLenMax): true, strings.Repeat("a", NameLenMax+1): false,
	} {
		if err := ValidName(s); (err == nil) != ok {
			t.Errorf("name %q: got %v, want ok=%v", s, err, ok)
		}
	}
}

func TestBoundsAsText(t *testing.T) {
	none := Bounds{Records: Unbounded, Bytes: Unbounded, Window: Unbounded}
	for want, b := range map[string]Bounds{
		"no limit":                           none,
		"100 records":                        {Records: 100, Bytes: none.Bytes, Window: none.Window},
		"0 records, 0 bytes, a window of 0s": {},
		"1000 bytes, a window of 2s":         {Records: none.Records, Bytes: 1000, Window: 2 * time.Second},
		"16 MiB":                             {Records: none.Records, Bytes: 16 << 20, Window: none.Window},
		"1536 KiB":                           {Records: none.Records, Bytes: 3 << 19, Window: none.Window},
		"4096 TiB":                           {Records: none.Records, Bytes: 1 << 52, Window: none.Window},
	} {
		if got := b.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
