package snapshot

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
)

var update = flag.Bool("update", false, "rewrite the golden bytes of a version that is not released")

// samples is one of each thing that is on a disk, every field set. Payloads are
// plain: what a compressor makes of them is not part of the format.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	var x, src Extent
	raw := noise(7, 3*PageBytes)[:2*PageBytes+4]
	src.Cut(noise(8, PageBytes))
	x.Cut(append(noise(8, PageBytes), raw[PageBytes:]...))
	r := record{
		place: 0x1122334455667788, x: x, refs: []ref{{1, 0}, {0, 0}, {0, 1}}, sources: []Name{src.Name},
		own: PageBytes + 4, payload: Payload{Plain, raw[PageBytes:]},
	}
	m := &Manifest{
		Info: Info{
			Stream: tidegate.ID{1, 2, 3}, Generation: 2, Opened: 7, Taken: 99,
			Base: Base{Start: 0x1000000, End: 0x1234568, Lineage: "pg:7:1", Attrs: map[string]string{"a": "1", "b": "2"}},
		},
		Files: []File{
			{Path: "base", Kind: KindDir, Mode: 0o700, ModTime: 5},
			{Path: "base/1259", Kind: KindFile, Mode: 0o600, Size: ExtentBytes + 1, ModTime: 6},
			{Path: "link", Kind: KindLink, Mode: 0o777, Link: "base"},
		},
		Extents: [][]Name{nil, {x.Name, src.Name}, nil},
	}
	man, _, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.Lineage, m.Attrs = "journal:7", nil
	m.Files = []File{{Path: "state", Kind: KindStream, Mode: 0o600, Size: ExtentBytes + 7}, {Path: "none", Kind: KindStream}}
	m.Extents, m.Cuts = [][]Name{{x.Name, src.Name}, nil}, [][]int{{ExtentBytes, 7}, nil}
	streams, _, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"manifest2": streams,
		"pack":      r.append(packHeader(3)),
		"index":     appendIndex(nil, 3, []indexEntry{{x.Name, r.place, packHeaderSize, 8500}}),
		"manifest":  man,
	}
}

// The bytes of a version never change.
func TestGoldenBytes(t *testing.T) {
	for name, b := range samples(t) {
		path := filepath.Join("testdata", "v1", name+".hex")
		got := hex.Dump(b)
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// again decodes and encodes; the number is that of the sample's kind.
func again(kind string, b []byte) ([]byte, error) {
	switch kind {
	case "pack":
		number, err := parsePackHeader(b)
		if err != nil {
			return nil, err
		}
		r, err := parseRecord(b[packHeaderSize:])
		if err != nil {
			return nil, err
		}
		return r.append(packHeader(number)), nil
	case "index":
		number, entries, err := parseIndex(b)
		if err != nil {
			return nil, err
		}
		return appendIndex(nil, number, entries), nil
	}
	m, err := ParseManifest(b)
	if err != nil {
		return nil, err
	}
	out, _, err := m.Encode()
	return out, err
}

// TestDecodersAreStrict: what was written is read and written again alike; cut
// anywhere, or with one bit changed anywhere, it is refused, save that a manifest
// is protected by its name only.
func TestDecodersAreStrict(t *testing.T) {
	for kind, b := range samples(t) {
		if out, err := again(kind, b); err != nil || !bytes.Equal(out, b) {
			t.Fatalf("%s: %v", kind, err)
		}
		for i := range b {
			if _, err := again(kind, b[:i]); err == nil {
				t.Fatalf("%s cut at %d is accepted", kind, i)
			}
			bad := bytes.Clone(b)
			bad[i] ^= 1 << (i % 8)
			out, err := again(kind, bad)
			if err == nil && (!strings.HasPrefix(kind, "manifest") || !bytes.Equal(out, bad)) {
				t.Fatalf("%s with a bit changed at %d is accepted", kind, i)
			}
		}
		if _, err := again(kind, append(bytes.Clone(b), 0)); err == nil && kind != "pack" {
			t.Errorf("%s: a trailing byte is accepted", kind)
		}
	}
}

func FuzzDecoders(f *testing.F) {
	kinds := []string{"index", "manifest", "manifest2", "pack"}
	all := samples(f)
	for i, k := range kinds {
		f.Add(uint8(i), all[k])
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		kind := kinds[int(i)%len(kinds)]
		out, err := again(kind, b)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(b, out) {
			t.Fatalf("%s: % x decodes, and encodes to % x", kind, b, out)
		}
	})
}

// TestDocument holds docs/formats/snapshot.md against the code.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/formats/snapshot.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("*pages* of %d bytes in *extents* of up to %d pages (%d bytes)", PageBytes, ExtentPages, ExtentBytes),
		fmt.Sprintf("| header, %d bytes |", recordHeaderSize), fmt.Sprintf("begin with %d bytes", packHeaderSize), fmt.Sprintf("one entry of %d bytes", indexEntrySize),
		"`" + packMagic + "` a pack", "`" + indexMagic + "` an index", "| magic | `" + recordMagic + "` |", "| magic | `" + manifestMagic + "` |",
		`the text "` + extentTag + `"`, fmt.Sprintf("count, at most %d; pairs of texts of at most %d bytes", AttrsMax, AttrBytesMax), fmt.Sprintf("text, at most %d bytes", lineageBytesMax),
		fmt.Sprintf("%d plain, %d zstd", Plain, Zstd), fmt.Sprintf("(%d file, %d directory, %d symbolic link, %d stream)", KindFile, KindDir, KindLink, KindStream),
		fmt.Sprintf("## Manifest, versions %d and %d", version, manifestVersion), `the text "` + gearTag + `"`,
		fmt.Sprintf("from %d bytes on", CutMin), fmt.Sprintf("up to %d bytes", CutNormal),
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the document does not say %q", want)
		}
	}
}
