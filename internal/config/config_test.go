package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

type sample struct {
	Node   Node              `yaml:"node"`
	Limit  Bytes             `yaml:"limit"`
	Wait   time.Duration     `yaml:"wait"`
	Count  int               `yaml:"count"`
	Deep   []item            `yaml:"deep"`
	Labels map[string]string `yaml:"labels"`
	On     *bool             `yaml:"on"`
}

type item struct {
	Addr string      `yaml:"addr"`
	ID   tidegate.ID `yaml:"id"`
}

func (s sample) SetDefaults() sample {
	if s.Count == 0 {
		s.Count = 3
	}
	return s
}

func (s sample) Validate() error {
	all := []error{Under("node", s.Node.Validate()), AtLeast("count", s.Count, 1)}
	for i, d := range s.Deep {
		all = append(all, Under("deep["+string(rune('0'+i))+"]", HostPort("addr", d.Addr)))
	}
	return errors.Join(all...)
}

func TestParseFillsEveryKindOfField(t *testing.T) {
	got, err := Parse[sample]("x.yaml", []byte(`
node: {cluster: c, site: east, name: n1}
limit: 64MiB
wait: 250ms
deep:
  - {addr: "h:7411", id: 000102030405060708090a0b0c0d0e0f}
labels: {a: 010}
on: false
`))
	if err != nil {
		t.Fatal(err)
	}
	want := sample{
		Node:  Node{Cluster: "c", Site: "east", Name: "n1"},
		Limit: 64 << 20, Wait: 250 * time.Millisecond, Count: 3,
		Deep:   []item{{Addr: "h:7411", ID: tidegate.ID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}},
		Labels: map[string]string{"a": "010"}, On: new(bool),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestParseReportsEveryMistakeAtOnce(t *testing.T) {
	_, err := Parse[sample]("x.yaml", []byte(`node:
  cluster: C
  site: east
  site: west
  nmae: n1
limit: 64MB
wait: 5
count: -1
deep:
  - addr: nowhere
    id: [1]
  - just text
labels: &a {x: y}
hidden: 1
`))
	want := `read configuration x.yaml: 12 mistakes
  node.site (line 4): duplicate key, first on line 3
  node.nmae (line 5): unknown key, did you mean "name"?
  limit (line 6): want a size such as 4096, 512KiB, 64MiB or 2GiB (got "64MB")
  wait (line 7): want a duration such as 250ms, 2s or 1h (got "5")
  deep[0].id (line 11): want a single value (got a list)
  deep[1] (line 12): want keys and values (got "just text")
  labels (line 13): anchors and aliases are not used here: write the value
  hidden (line 14): unknown key
  node.cluster: want 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-' (got "C")
  node.name: want 1 to 63 of a-z, 0-9 and '-', starting with a letter, not ending with '-' (got nothing)
  count: want at least 1 (got -1)
  deep[0].addr: want host:port (got "nowhere")`
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Fatal(diff)
	}
	if got := tidegate.ClassOf(err); got != tidegate.Misuse {
		t.Errorf("class %q, want misuse", got)
	}
}

func TestParseRefusesWholeFiles(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"empty":    {"", "the file is empty"},
		"comments": {"# nothing\n", "the file is empty"},
		"syntax":   {"a: [", "did not find expected node content"},
		"text":     {"hello", `want keys and values (got "hello")`},
		"two":      {"count: 1\n---\ncount: 2\n", "want one document, the file has several"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse[sample]("x.yaml", []byte(tc.in))
			if err == nil || !strings.Contains(err.Error(), "1 mistake\n") || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q alone", err, tc.want)
			}
		})
	}
}

func TestLoadNamesTheFileOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Load[sample](path)
	if !errors.Is(err, os.ErrNotExist) || strings.Count(err.Error(), path) != 1 {
		t.Errorf("got %v", err)
	}
	big := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(big, make([]byte, FileBytesMax+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load[sample](big); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
}

func TestBytesTextRoundTrips(t *testing.T) {
	for _, b := range []Bytes{0, 1, 1023, 1024, 1536, 64 << 20, 3 << 30, 1 << 40, 1<<63 - 1} {
		var got Bytes
		if err := got.UnmarshalText([]byte(b.String())); err != nil || got != b {
			t.Errorf("%d -> %q -> %d, %v", int64(b), b, int64(got), err)
		}
	}
	for _, s := range []string{"", "x", "-1", "1KB", "1.5MiB", "9223372036854775807KiB", "MiB"} {
		if err := new(Bytes).UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("node: {cluster: c, site: east, name: n1}\n"))
	f.Add([]byte("deep: [{addr: a}, *x]\n&x a: b\n"))
	f.Add([]byte("? [a, b]\n: c\n<<: {d: e}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse[sample]("x.yaml", data)
		if err == nil && file.Validate() != nil {
			t.Fatalf("accepted a file that does not validate: %q", data)
		}
		if err != nil && tidegate.ClassOf(err) != tidegate.Misuse {
			t.Fatalf("class %q for %v", tidegate.ClassOf(err), err)
		}
	})
}

func TestAddresses(t *testing.T) {
	for addr, want := range map[string]struct{ listen, reach bool }{
		"h:7411": {true, true}, "10.0.0.1:1": {true, true}, "[::1]:1": {true, true},
		":7411": {true, false}, "0.0.0.0:7411": {true, false}, "[::]:7411": {true, false}, "h:0": {true, false},
		"h": {}, "h:": {}, "h:x": {}, "h:70000": {}, "h:-1": {}, "": {},
	} {
		if got := HostPort("a", addr) == nil; got != want.listen {
			t.Errorf("%q: listen %v", addr, got)
		}
		if got := Reachable("a", addr) == nil; got != want.reach {
			t.Errorf("%q: reachable %v", addr, got)
		}
	}
}
