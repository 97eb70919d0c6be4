package journal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

// goldenRecords is one record of each kind, from position 0 on.
func goldenRecords() []byte {
	b := appendRecord(nil, 0, header{number: 1, time: 1_700_000_000_000_000_123, kind: KindData}, []byte("transfer 42 from a to b"))
	b = appendRecord(b, tidegate.Position(len(b)), header{number: 2, time: -1, kind: KindData}, nil)
	at := tidegate.Position(len(b))
	return appendRecord(b, at, header{number: 3, time: 5, kind: KindBranch}, Branch{Epoch: 7, Position: at}.payload())
}

// TestGoldenBytes keeps version 1 readable for ever.
func TestGoldenBytes(t *testing.T) {
	path := filepath.Join("testdata", "v1", "records.hex")
	got := hex.Dump(goldenRecords())
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("bytes changed:\n%s\nwant\n%s", got, want)
	}
	var numbers []uint64
	err = Scan(goldenRecords(), 0, func(r Record) error {
		numbers = append(numbers, r.Number)
		if r.Kind == KindBranch {
			b, err := parseBranch(r)
			if b.Epoch != 7 {
				t.Errorf("branch %+v", b)
			}
			return err
		}
		return nil
	})
	if err != nil || len(numbers) != 3 {
		t.Errorf("scan: %v %v", numbers, err)
	}
}

func TestDocumentQuotesTheConstants(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "formats", "journal.md"))
	if err != nil {
		t.Fatal(err)
	}
	magic := format{}.Magic()
	for _, want := range []string{
		"header: 28 bytes", "`" + string(magic[:]) + "`", "16 MiB", "data = 1", "branch = 2",
		`"format": "` + metaFormat + `"`,
	} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("docs/formats/journal.md does not say %q", want)
		}
	}
	if HeaderSize != 28 || PayloadMax != 16<<20 || KindData != 1 || KindBranch != 2 {
		t.Error("the constants changed: a new version of the format")
	}
}

// TestEveryBitIsCovered flips each bit of a record, and moves it elsewhere.
func TestEveryBitIsCovered(t *testing.T) {
	raw := goldenRecords()
	first := len(raw) - 2*HeaderSize - branchPayloadSize
	one := raw[:first]
	none := func(Record) error { return nil }
	for i := range len(one) * 8 {
		b := bytes.Clone(one)
		b[i/8] ^= 1 << (i % 8)
		if err := Scan(b, 0, none); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	if err := Scan(one, 1, none); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("moved: %v", err)
	}
	for n := 1; n < len(one); n++ {
		if err := Scan(one[:n], 0, none); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	twice := append(bytes.Clone(one), appendRecord(nil, tidegate.Position(len(one)), header{number: 3, kind: KindData}, nil)...)
	if err := Scan(twice, 0, none); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("number skipped: %v", err)
	}
	stop := errors.New("stop")
	if err := Scan(raw, 0, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("callback's error: %v", err)
	}
}

func FuzzScan(f *testing.F) {
	f.Add(goldenRecords(), uint64(0))
	f.Add(goldenRecords()[:40], uint64(0))
	f.Add([]byte{}, uint64(9))
	f.Fuzz(func(t *testing.T, raw []byte, first uint64) {
		var again []byte
		at := tidegate.Position(first)
		err := Scan(raw, at, func(r Record) error {
			again = appendRecord(again, r.First, header{number: r.Number, time: r.Time.UnixNano(), kind: r.Kind}, r.Payload)
			return nil
		})
		if err == nil && !bytes.Equal(again, raw) {
			t.Fatal("what was read is not what is written")
		}
		if err != nil && tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Fatalf("not classified: %v", err)
		}
	})
}

func TestRecordTimeKeepsNanoseconds(t *testing.T) {
	want := time.Unix(12, 345)
	rec, err := parseRecord(appendRecord(nil, 0, header{number: 1, time: want.UnixNano(), kind: KindData}, nil), 0)
	if err != nil || !rec.Time.Equal(want) {
		t.Errorf("%v %v", rec.Time, err)
	}
}
