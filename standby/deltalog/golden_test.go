package deltalog_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby/deltalog"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

// goldenLog writes a small log of three segments.
func goldenLog(t *testing.T) (*vfs.Mem, tidegate.LogPos) {
	t.Helper()
	mem := vfs.NewMem()
	l := open(t, mem, deltalog.Config{SegmentBytes: 500})
	w := newWriter()
	check(t, l.Append(w.data(20), w.heartbeat(), w.data(40), w.data(30), w.heartbeat(), w.data(10)))
	pos := must(l.Sync())
	check(t, l.Close())
	return mem, pos
}

func TestGolden(t *testing.T) {
	mem, want := goldenLog(t)
	old := vfs.NewMem()
	check(t, old.MkdirAll("/log"))
	for _, name := range must(mem.List("/log")) {
		if name == "lock" {
			continue
		}
		path := filepath.Join("testdata", "v1", name+".hex")
		got := slurp(t, mem, "/log/"+name)
		if *update {
			check(t, os.WriteFile(path, []byte(hex.Dump(got)), 0o644))
		}
		golden := undump(t, path)
		if !bytes.Equal(got, golden) {
			t.Errorf("%s: writing gives other bytes than version 1 did", name)
		}
		f := must(old.Create("/log/" + name))
		must(f.Write(golden))
		check(t, f.Close())
	}
	l := open(t, old, deltalog.Config{SegmentBytes: 500})
	defer l.Close()
	if l.End() != want {
		t.Errorf("the log of version 1 opens at %s, want %s", l.End(), want)
	}
}

// undump reverses hex.Dump.
func undump(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	var out []byte
	for line := range strings.Lines(string(text)) {
		digits, _, _ := strings.Cut(line[8:], "|")
		b, err := hex.DecodeString(strings.Join(strings.Fields(digits), ""))
		check(t, err)
		out = append(out, b...)
	}
	return out
}

// number is the hex dump of eight bytes, little-endian.
func number(n uint64) string { return hex.EncodeToString(binary.LittleEndian.AppendUint64(nil, n)) }

// TestDocument holds the tables of docs/formats/deltalog.md against the golden
// bytes: they cover header and mark without a hole, the fields are where the
// tables say, and what is reserved is zero.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/formats/deltalog.md")
	check(t, err)
	mem, end := goldenLog(t)
	names := must(mem.List("/log"))
	segment := slurp(t, mem, "/log/"+names[1])          // it starts at seq 3
	mark := slurp(t, mem, "/log/mark")[vfs.SectorSize:] // the slot written last
	sections := strings.Split(string(text), "\n## ")
	w := newWriter()
	w.data(20)
	w.heartbeat()
	for title, want := range map[string]struct {
		bytes  []byte
		fields map[string]string
	}{
		"Segment": {segment, map[string]string{
			"magic": "54475331", "version": "0100", "format magic": "5447444c", "first index": number(3),
			"offset": number(2*batch.HeaderSize + 20), "state": w.chain.String(),
		}},
		"Mark": {mark, map[string]string{"magic": "54474d31", "version": "0100", "index": number(uint64(end.Seq) + 1)}},
	} {
		section := ""
		for _, s := range sections {
			if strings.HasPrefix(s, title) {
				section = s
			}
		}
		at := 0
		for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| ([a-zA-Z ]+) \|`).FindAllStringSubmatch(section, -1) {
			start, size := must(strconv.Atoi(row[1])), must(strconv.Atoi(row[2]))
			if start != at {
				t.Errorf("%s: %s starts at %d, the field before ends at %d", title, row[3], start, at)
			}
			at = start + size
			got := hex.EncodeToString(want.bytes[start:at])
			if field, ok := want.fields[row[3]]; ok && got != field {
				t.Errorf("%s: %s is %s, want %s", title, row[3], got, field)
			}
			if row[3] == "reserved" && strings.Trim(got, "0") != "" {
				t.Errorf("%s: reserved bytes at %d are %s", title, start, got)
			}
		}
		if at != seglog.HeaderSize {
			t.Errorf("%s: the table ends at %d, want %d", title, at, seglog.HeaderSize)
		}
	}
	if !strings.Contains(string(text), fmt.Sprintf("default segment size is %d bytes", seglog.SegmentBytesDefault)) {
		t.Error("the default segment size is another")
	}
}
