package quarantine

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

var theStream = tidegate.ID{0xab, 1}

// full has every field.
func full() Summary {
	at := time.Date(2026, 11, 21, 14, 2, 11, 500_000_000, time.UTC)
	return Summary{
		Version: Version, Kind: KindServerTail, ID: tidegate.ID{7}, Node: "app1", Service: "shop", Stream: "main", StreamID: theStream,
		Reason: "diverged", Created: at, Generation: 2, CutEpoch: 7, WrittenEpochs: []tidegate.Epoch{5, 6},
		Positions: &Positions{0x3000158, 0x3001f40}, Seqs: &Seqs{41, 44}, Batches: Count(4), Records: Count(3), Bytes: Count(0x1de8),
		Oldest: at.Add(-2 * time.Second), Newest: at.Add(-time.Second), Released: &Released{2, 2048, at.Add(-time.Second)},
		Note: "0/3000158 to 0/3001F40", Look: []string{"pg_waldump --path=" + Here + "/wal"},
		Files: []File{{"wal/000000010000000000000003", 16 << 20}}, Detail: json.RawMessage(`{"lineage": "pg:1"}`),
	}
}

// The bytes on disks, of a summary that says all and of one that knows next to nothing.
func TestGolden(t *testing.T) {
	for name, s := range map[string]Summary{"full": full(), "least": {Version: Version, Kind: KindLogAside}} {
		got, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		back, err := Parse(want)
		if err != nil {
			t.Fatal(err)
		}
		s.Detail, back.Detail = nil, nil // laid out as the file is
		if diff := cmp.Diff(s, back); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
	}
	// docs/formats/quarantine.md shows the same.
	page, err := os.ReadFile("../../docs/formats/quarantine.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/full.json")
	if err != nil || !strings.Contains(string(page), string(want)) {
		t.Errorf("the page has another example than testdata/full.json (%v)", err)
	}
}

func TestSummaryIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Summary){
		"unknown kind":        func(s *Summary) { s.Kind = "heap" },
		"torn":                func(s *Summary) { s.Kind = KindTorn },
		"positions backwards": func(s *Summary) { s.Positions.Next = 1 },
		"batches backwards":   func(s *Summary) { s.Seqs.Last = 1 },
		"less than none":      func(s *Summary) { s.Records = Count(-1) },
		"less than released":  func(s *Summary) { s.Released.Bytes = -1 },
		"file outside":        func(s *Summary) { s.Files[0].Name = "../etc/passwd" },
	} {
		s := full()
		change(&s)
		if b, err := s.Encode(); err == nil {
			t.Errorf("%s: encoded as %s", name, b)
		}
	}
	for name, text := range map[string]string{"another version": `{"version":1,"kind":"log-tail"}`, "another kind": `{"version":2,"kind":"heap"}`} {
		if _, err := Parse([]byte(text)); !errors.Is(err, tidegate.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"full", "least"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"version":2,"kind":"log-tail","seqs":{"first":"0000000000000002","last":"0000000000000001"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatalf("read and not written: %v", err)
		}
		back, err := Parse(again)
		if err != nil {
			t.Fatalf("written and not read: %v", err)
		}
		s.Detail, back.Detail = nil, nil
		if diff := cmp.Diff(s, back); diff != "" {
			t.Error(diff)
		}
	})
}

// yard is a directory with something in quarantine.
type yard struct {
	t   *testing.T
	dir string
}

func (y yard) file(name, content string) {
	y.t.Helper()
	path := filepath.Join(y.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		y.t.Fatal(err)
	}
}

func (y yard) bundle(name string, s Summary) {
	y.t.Helper()
	y.file(name+"/data", "12345")
	if err := Write(vfs.OS(), filepath.Join(y.dir, name), s); err != nil {
		y.t.Fatal(err)
	}
}

// Everything that packages put into quarantine is found by its place, and what is
// wrong with a bundle hides neither it nor others.
func TestFind(t *testing.T) {
	y := yard{t, t.TempDir()}
	of := func(k Kind) Summary { return Summary{Kind: k, Reason: "diverged"} }
	q := "quarantine/" + theStream.String()
	y.bundle(q+"/3-a-b-diverged", of(KindLogTail))
	y.bundle(q+"/aside-00000000", of(KindLogAside))
	y.file(q+"/aside-00000000-held.json", "{}")
	y.file(q+"/aside-11111111/1.seg", "x")
	y.file(q+"/torn/0000000000000007-1.torn", "123")
	y.file(q+"/3-c-d-diverged.partial/tail.journal", "1")
	y.file(q+"/4-no-summary/tail.journal", "1")
	y.file(q+"/5-not-json/summary.json", `{"version":`)
	y.file(q+"/6-older/summary.json", `{"version":1}`)
	short := of(KindSourceTail)
	short.Files = []File{{"data", 6}}
	y.bundle(q+"/7-short", short)
	short.Files = []File{{"gone", 6}}
	y.bundle(q+"/8-gone", short)
	y.file(q+"/stray", "??")
	if err := os.Symlink("nowhere", filepath.Join(y.dir, q, "9-link")); err != nil {
		t.Fatal(err)
	}
	named := of(KindServerTail)
	named.StreamID = tidegate.ID{9}
	y.bundle("quarantine/7-diverged", named)
	y.bundle("quarantine/"+tidegate.Position(1).String()+"-"+tidegate.Position(2).String(), of(KindJournalTail))
	y.file("quarantine/torn/0000000000000001-1.torn", "1")
	y.bundle("aside/generation-1-x", of(KindDataAside))
	y.file("aside/generation-2-x/data/PG_VERSION", "15")
	if err := os.Symlink("/", filepath.Join(y.dir, "aside/generation-2-x/data/root")); err != nil {
		t.Fatal(err)
	}

	found, err := Find(y.dir)
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Name   string
		Kind   Kind
		State  State
		Damage string
		Stream tidegate.StreamID
	}
	var got []row
	for _, b := range found {
		damage, _, _ := strings.Cut(strings.ReplaceAll(b.Damage, y.dir+"/"+q, ""), ":")
		got = append(got, row{b.Name, b.Kind, b.State, damage, b.StreamID})
		if linked := b.Name == "9-link"; (b.Bytes == nil) != linked || !linked && *b.Bytes == 0 || b.Bytes != nil && *b.Bytes > 1000 {
			t.Errorf("%s takes %v bytes", b.Name, b.Bytes)
		}
		if b.Path != filepath.Join(y.dir, strings.TrimPrefix(b.Path, y.dir)) {
			t.Errorf("%s lies in %s", b.Name, b.Path)
		}
	}
	none := tidegate.StreamID{}
	want := []row{
		{"generation-1-x", KindDataAside, StateWhole, "", none},
		{"generation-2-x", KindDataAside, StateBare, "", none},
		{"0000000000000001-0000000000000002", KindJournalTail, StateWhole, "", none},
		{"7-diverged", KindServerTail, StateWhole, "", tidegate.ID{9}},
		{"3-a-b-diverged", KindLogTail, StateWhole, "", theStream},
		{"3-c-d-diverged.partial", "", StateUnfinished, "", theStream},
		{"4-no-summary", "", StateDamaged, "no summary.json", theStream},
		{"5-not-json", "", StateDamaged, "/5-not-json/summary.json", theStream},
		{"6-older", "", StateDamaged, "read /6-older/summary.json", theStream},
		{"7-short", KindSourceTail, StateDamaged, "data", theStream},
		{"8-gone", KindSourceTail, StateDamaged, "stat /8-gone/gone", theStream},
		{"9-link", "", StateDamaged, "stat /9-link", theStream},
		{"aside-00000000", KindLogAside, StateWhole, "", theStream},
		{"aside-11111111", KindLogAside, StateBare, "", theStream},
		{"stray", "", StateDamaged, "a file that is part of no bundle", theStream},
		{"torn/0000000000000007-1.torn", KindTorn, StateWhole, "", theStream},
		{"torn/0000000000000001-1.torn", KindTorn, StateWhole, "", none},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFindWhereThereIsNothing(t *testing.T) {
	dir := t.TempDir()
	if found, err := Find(dir); err != nil || len(found) != 0 {
		t.Errorf("in an empty directory: %v, %v", found, err)
	}
	if _, err := Find(filepath.Join(dir, "none")); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("in none: %v", err)
	}
	yard{t, dir}.file("file", "")
	if _, err := Find(filepath.Join(dir, "file")); err == nil || errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("in a file: %v", err)
	}
	// A quarantine that is no directory does not look empty.
	yard{t, dir}.file(DirName, "")
	found, err := Find(dir)
	if err != nil || !slices.ContainsFunc(found, func(b Bundle) bool { return b.State == StateDamaged }) {
		t.Errorf("%+v, %v", found, err)
	}
}
