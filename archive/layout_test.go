package archive_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/snapshot"
)

var update = flag.Bool("update", false, "rewrite the golden bytes of a version that is not released")

var (
	streamID = tidegate.StreamID{0x0a, 1, 2, 3, 15: 0xff}
	mirror   = archive.Mirror{Node: "dr-1", Incarnation: tidegate.Incarnation{0xbe, 15: 1}}
	segment  = archive.Segment{First: 1001, Last: 1_000_000, Epoch: 0x1f, Chain: tidegate.Chain{0xca, 15: 0xfe}}
	base     = archive.BaseName{Generation: 2, Name: snapshot.Name{0xaa, 31: 0xbb}}
)

func entries() []archive.Entry {
	return []archive.Entry{
		{Kind: archive.KindFormat},
		{Kind: archive.KindStream, Stream: streamID},
		{Kind: archive.KindArchivist, Stream: streamID},
		{Kind: archive.KindSegment, Stream: streamID, Segment: segment},
		{Kind: archive.KindSegment, Stream: streamID, Segment: archive.Segment{First: 1, Last: 1, Epoch: 1}},
		{Kind: archive.KindPack, Stream: streamID, Mirror: mirror, Pack: 0x1a},
		{Kind: archive.KindIndex, Stream: streamID, Mirror: mirror, Pack: 0x1a},
		{Kind: archive.KindBase, Stream: streamID, Mirror: mirror, Base: base},
		{Kind: archive.KindBackup, Backup: archive.Backup{Cluster: "prod", Taken: time.Date(2026, 5, 11, 3, 0, 59, 0, time.UTC), Revision: 0x1234}},
		{Kind: archive.KindDrill, Drill: archive.Drill{Service: "bank", Number: 17}},
		{Kind: archive.KindRemoved, Stream: streamID},
		{Kind: archive.KindScar, Stream: streamID, Scar: archive.ScarName{Seq: 1001, Epoch: 0x1f}},
	}
}

// golden compares with what lies in testdata for ever.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "v1", file)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func TestNamesStayTheSame(t *testing.T) {
	var names strings.Builder
	for _, e := range entries() {
		names.WriteString(e.Name() + "\n")
		got, err := archive.Parse(e.Name())
		if err != nil {
			t.Errorf("parse %q: %v", e.Name(), err)
		}
		if d := cmp.Diff(e, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", e.Name(), d)
		}
	}
	golden(t, "names", []byte(names.String()))
}

func TestDocumentsStayTheSame(t *testing.T) {
	at := time.Date(2026, 11, 22, 6, 30, 0, 0, time.UTC)
	info := archive.StreamInfo{Version: 1, Stream: streamID, Service: "orders", Name: "main", Store: "journal", Created: at}
	who := archive.Archivist{Version: 1, Node: "dr-1", Incarnation: mirror.Incarnation, Until: at.Add(time.Minute)}
	golden(t, "tidegate.json", archive.FormatDocument())
	golden(t, "stream.json", info.Encode())
	golden(t, "archivist.json", who.Encode())
	scar := archive.Scar{
		Version: 1,
		Ended:   archive.Place{Seq: 1000, Epoch: 0x1e, Chain: tidegate.Chain{1}, Generation: 1, First: 0x1000, Next: 0x2000, Oldest: at, Newest: at.Add(time.Second)},
		Begun:   archive.Place{Seq: 1001, Epoch: 0x1f, Chain: tidegate.Chain{2}, Generation: 2, First: 0x9000, Next: 0x9000, Oldest: at.Add(time.Hour), Newest: at.Add(time.Hour)},
		Accepted: &tidegate.Gap{
			Epoch: 0x1e, Site: "east", Node: "db1", Lost: "the slot was dropped", Generation: 1, Durable: new(tidegate.Position(0x2000)),
			Reason: "the link was down for a week", Actor: "operator/ada", Since: at.Add(time.Minute),
		},
	}
	golden(t, "scar.json", scar.Encode())
	name := archive.ScarName{Seq: 1001, Epoch: 0x1f}
	if got, err := archive.ParseScar(streamID, name, scar.Encode()); err != nil || !bytes.Equal(got.Encode(), scar.Encode()) || !got.Of(*scar.Accepted) {
		t.Errorf("scar: %+v, %v", got, err)
	}
	if _, err := archive.ParseScar(streamID, archive.ScarName{Seq: 1002, Epoch: 0x1f}, scar.Encode()); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("a scar by another name: %v", err)
	}
	if err := archive.CheckFormat(archive.FormatDocument()); err != nil {
		t.Error(err)
	}
	if got, err := archive.ParseStream(streamID, info.Encode()); err != nil || got != info {
		t.Errorf("stream.json: %+v, %v; want %+v", got, err, info)
	}
	if got, err := archive.ParseArchivist(streamID, who.Encode()); err != nil || got != who {
		t.Errorf("archivist.json: %+v, %v; want %+v", got, err, who)
	}
}

func TestDocumentsThatAreNotUnderstood(t *testing.T) {
	later := errors.Join(
		archive.CheckFormat([]byte(`{"format":"tidegate archive","version":2}`)),
		archive.CheckFormat([]byte(`{"format":"something else","version":1}`)),
	)
	_, err := archive.ParseStream(streamID, []byte(`{"version":2}`))
	_, err2 := archive.ParseArchivist(streamID, []byte(`{"version":0}`))
	for _, err := range []error{later, err, err2} {
		if !errors.Is(err, tidegate.ErrUnsupported) {
			t.Errorf("got %v, want %v", err, tidegate.ErrUnsupported)
		}
	}
	for _, text := range []string{
		"", "{", `{"version":1,"stream":"0a0102030000000000000000000000ff","service":"orders","name":"main"}`,
		`{"version":1,"stream":"00000000000000000000000000000001","service":"orders","name":"main","store":"journal"}`,
		`{"version":1,"stream":"0a0102030000000000000000000000ff","service":"../x","name":"main","store":"journal"}`,
	} {
		if _, err := archive.ParseStream(streamID, []byte(text)); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Errorf("stream.json %q: got %v, want corrupt", text, err)
		}
	}
}

func TestNamesThatAreNotTheArchives(t *testing.T) {
	good := archive.Entry{Kind: archive.KindSegment, Stream: streamID, Segment: segment}.Name()
	prefix := archive.LogPrefix(streamID)
	bases := mirror.Prefix(streamID)
	for _, name := range []string{
		"", "/", "streams", "streams/", "other", "tidegate.json/", strings.ToUpper(good), good + "x", "/" + good, good[:len(good)-4],
		strings.Replace(good, "ca00", "CA00", 1),
		prefix + "1-2-1-00000000000000000000000000000000.seg",
		prefix + "00000000000000000000-00000000000000000001-0000000000000001-00000000000000000000000000000000.seg",
		prefix + "00000000000000000002-00000000000000000001-0000000000000001-00000000000000000000000000000000.seg",
		prefix + "00000000000000000001-00000000000000000001-0000000000000000-00000000000000000000000000000000.seg",
		prefix + "99999999999999999999-99999999999999999999-0000000000000001-00000000000000000000000000000000.seg",
		prefix + "+0000000000000000001-00000000000000000001-0000000000000001-00000000000000000000000000000000.seg",
		bases + "packs/1.pack", bases + "packs/0000000000000001.pack.failed", bases + "held.json", bases + "bases/x.base",
		"drills/bank/17.dsse.json", "drills/bank/0000000000.dsse.json", "drills/Bank/0000000017.dsse.json", "drills/bank/0000000017.json", "drills/0000000017.dsse.json",
		archive.BasesPrefix(streamID) + "-" + mirror.Incarnation.String() + "/packs/0000000000000001.pack",
		archive.BasesPrefix(streamID) + "Node-" + mirror.Incarnation.String() + "/packs/0000000000000001.pack",
		archive.StreamPrefix(streamID) + "scars/1-1.json", archive.StreamPrefix(streamID) + "scars/00000000000000000001-0000000000000002.json",
		archive.StreamPrefix(streamID) + "log", archive.StreamPrefix(streamID) + "log/", archive.StreamPrefix(streamID) + "more.json",
	} {
		if e, err := archive.Parse(name); err == nil {
			t.Errorf("%q was taken for %+v", name, e)
		}
	}
}

func TestSegmentsSortByTheirFirstSeq(t *testing.T) {
	seqs := []tidegate.Seq{1, 9, 10, 99, 1 << 20, 1 << 40, 1<<64 - 1}
	var names []string
	for _, seq := range seqs {
		name := archive.Segment{First: seq, Last: 1<<64 - 1, Epoch: 1}.Name(streamID)
		if after := archive.LogAfter(streamID, seq); after >= name || len(names) > 0 && after <= names[len(names)-1] {
			t.Errorf("%q does not lie between the segments before %d and %q", after, seq, name)
		}
		names = append(names, name)
	}
	if !slices.IsSorted(names) {
		t.Errorf("not in the order of their seqs: %q", names)
	}
	if _, err := archive.ParseSegment(tidegate.StreamID{1}, names[0]); err == nil {
		t.Error("a segment of another stream was taken")
	}
	if got, err := archive.ParseSegment(streamID, names[1]); err != nil || got.First != 9 {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, e := range entries() {
		f.Add(e.Name())
	}
	f.Fuzz(func(t *testing.T, name string) {
		e, err := archive.Parse(name)
		if err != nil {
			if e != (archive.Entry{}) {
				t.Errorf("%q: an error and %+v", name, e)
			}
			return
		}
		if e.Name() != name {
			t.Errorf("%q was taken for %q", name, e.Name())
		}
	})
}
