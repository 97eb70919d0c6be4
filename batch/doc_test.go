package batch_test

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/tidegate/tidegate/batch"
)

// TestDocument holds docs/formats/batch.md and the code together.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/formats/batch.md")
	check(t, err)
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		check(t, err)
		return n
	}
	rows := regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| ([a-z, CR]+) \|`).FindAllStringSubmatch(string(text), -1)
	end := 0
	for _, row := range rows {
		at, size, name := number(row[1]), number(row[2]), row[3]
		want, ok := batch.Offsets[name]
		if !ok || at != want {
			t.Errorf("%s is at %d in the document, %d in the code", name, at, want)
		}
		if at != end {
			t.Errorf("%s starts at %d, the field before ends at %d", name, at, end)
		}
		end = at + size
	}
	if len(rows) != len(batch.Offsets) || end != batch.HeaderSize {
		t.Errorf("%d fields of %d bytes, want %d of %d", len(rows), end, len(batch.Offsets), batch.HeaderSize)
	}
	for what, m := range map[string]struct {
		pattern string
		want    int
	}{
		"header size":   {`header, (\d+) bytes`, batch.HeaderSize},
		"payload limit": {`raw payload is at most (\d+) bytes`, batch.PayloadBytesMax},
		"cipher tag":    {`the stored payload (\d+) bytes more`, batch.StoredBytesMax - batch.PayloadBytesMax},
		"version":       {`## Header, version (\d+)`, batch.Version},
		"text limit":    {`at most (\d+) bytes. A truth`, batch.StringLenMax},
	} {
		found := regexp.MustCompile(m.pattern).FindSubmatch(text)
		if found == nil || number(string(found[1])) != m.want {
			t.Errorf("%s: document says %q, code %d", what, found, m.want)
		}
	}
	for kind := batch.KindData; kind.Known(); kind++ {
		if !regexp.MustCompile(strconv.Itoa(int(kind)) + " " + kind.String()).Match(text) {
			t.Errorf("kind %d %s is not in the document", kind, kind)
		}
	}
	for codec := batch.CodecNone; codec <= batch.CodecZstd; codec++ {
		if !regexp.MustCompile(strconv.Itoa(int(codec)) + " " + codec.String()).Match(text) {
			t.Errorf("codec %d %s is not in the document", codec, codec)
		}
	}
}
