package seglog_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/seglog"
	"github.com/tidegate/tidegate/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// frames is a format as a journal's: length, CRC, index, text; the index of a
// record is its byte offset. chained adds a state.
type frames struct{}

const frameHeader = 16

func (frames) Magic() [4]byte { return [4]byte{'T', 'E', 'S', 'T'} }
func (frames) HeaderLen() int { return frameHeader }

func (frames) Parse(hdr []byte, at uint64) (seglog.Record, error) {
	n := binary.LittleEndian.Uint32(hdr)
	if index := binary.LittleEndian.Uint64(hdr[8:]); n > 1<<24 || n == 0 || index != at {
		return seglog.Record{}, fmt.Errorf("frame of %d bytes at index %d", n, index)
	}
	return seglog.Record{Len: frameHeader + int(n), Next: at + frameHeader + uint64(n)}, nil
}

func (frames) Verify(rec []byte, _ uint64) error {
	if crc(rec) != binary.LittleEndian.Uint32(rec[4:]) {
		return errors.New("frame checksum mismatch")
	}
	return nil
}

func crc(rec []byte) uint32 {
	sum := crc32.ChecksumIEEE(rec[:4])
	return crc32.Update(sum, crc32.IEEETable, rec[8:])
}

// frame makes the record at index at.
func frame(at uint64, text []byte) []byte {
	b := make([]byte, frameHeader, frameHeader+len(text))
	binary.LittleEndian.PutUint32(b, uint32(len(text)))
	binary.LittleEndian.PutUint64(b[8:], at)
	b = append(b, text...)
	binary.LittleEndian.PutUint32(b[4:], crc(b))
	return b
}

func text(i, n int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, n) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, fsys vfs.FS, cfg seglog.Config) *seglog.Log {
	t.Helper()
	l, _, err := seglog.Open(fsys, "/log", frames{}, cfg)
	check(t, err)
	return l
}

// add appends n records of the size, one append each, and returns all bytes.
func add(t testing.TB, l *seglog.Log, n, size int) []byte {
	t.Helper()
	var all []byte
	for i := range n {
		rec := frame(l.End(), text(i, size))
		check(t, l.Append(rec, l.End()+uint64(len(rec))))
		all = append(all, rec...)
	}
	return all
}

// contents reads a whole log the way another process does.
func contents(t testing.TB, fsys vfs.FS, dir string, from, limit uint64) []byte {
	t.Helper()
	b, err := readAll(fsys, dir, from, limit)
	check(t, err)
	return b
}

func readAll(fsys vfs.FS, dir string, from, limit uint64) (all []byte, err error) {
	r, err := seglog.OpenReader(fsys, dir, frames{}, from)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	buf := make([]byte, 0, 4<<10)
	for r.At() < limit {
		recs, _, err := r.ReadUpTo(limit, buf)
		if err != nil {
			return all, err
		}
		if len(recs) == 0 {
			return all, fmt.Errorf("nothing at %d, limit %d", r.At(), limit)
		}
		all = append(all, recs...)
	}
	return all, nil
}

func segments(t testing.TB, fsys vfs.FS, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, name := range must(fsys.List(dir)) {
		if strings.HasSuffix(name, ".seg") {
			files[name] = string(slurp(t, fsys, filepath.Join(dir, name)))
		}
	}
	return files
}

func slurp(t testing.TB, fsys vfs.FS, path string) []byte {
	t.Helper()
	return readFile(fsys, path)
}

func TestAppendSyncReopen(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{SegmentBytes: 1000})
	want := add(t, l, 50, 90)
	if l.Durable() != 0 {
		// Rolling makes the sealed segments durable; the tail is not.
		if l.Durable() >= l.End() {
			t.Errorf("durable %d of %d before any sync", l.Durable(), l.End())
		}
	}
	check(t, l.Sync())
	if l.Durable() != l.End() || l.End() != uint64(len(want)) || l.First() != 0 || l.Bytes() != int64(len(want)) {
		t.Errorf("first %d, end %d, durable %d, bytes %d", l.First(), l.End(), l.Durable(), l.Bytes())
	}
	check(t, l.Close())
	check(t, l.Close())
	if err := l.Append(frame(l.End(), []byte("x")), l.End()+17); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("append after close: %v", err)
	}
	l, rec, err := seglog.Open(mem.CrashClone(vfs.CrashLoseAll), "/log", frames{}, seglog.Config{SegmentBytes: 1000})
	check(t, err)
	if rec != (seglog.Recovery{}) || l.End() != uint64(len(want)) || l.Durable() != l.End() {
		t.Errorf("reopened: %+v, end %d, durable %d", rec, l.End(), l.Durable())
	}
	check(t, l.Close())
	if got := contents(t, mem, "/log", 0, uint64(len(want))); !bytes.Equal(got, want) {
		t.Error("contents differ after reopening")
	}
}

func TestOpenIsExclusive(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{})
	if _, _, err := seglog.Open(mem, "/log", frames{}, seglog.Config{}); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("second open: %v", err)
	}
	check(t, l.Close())
	check(t, open(t, mem, seglog.Config{}).Close())
}

func TestAppendRefusesWhatIsNotWholeRecords(t *testing.T) {
	l := open(t, vfs.NewMem(), seglog.Config{})
	defer l.Close()
	rec := frame(0, []byte("abc"))
	for name, tt := range map[string]struct {
		recs []byte
		next uint64
	}{
		"cut":        {rec[:len(rec)-1], 19},
		"cut header": {rec[:5], 19},
		"wrong next": {rec, 20},
		"wrong at":   {frame(7, []byte("abc")), 26},
		"nothing":    {nil, 1},
	} {
		if err := l.Append(tt.recs, tt.next); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	check(t, l.Append(rec, 19))
	check(t, l.Append(nil, 19))
}

// TestSameRecordsSameFiles appends the same records in many groupings, with
// syncs, restarts and cuts between: the segment files are equal byte for byte.
func TestSameRecordsSameFiles(t *testing.T) {
	var recs [][]byte
	var next []uint64
	at := uint64(0)
	for i := range 60 {
		size := 10 + i*37%300
		if i == 30 {
			size = 2500 // longer than a segment
		}
		rec := frame(at, text(i, size))
		at += uint64(len(rec))
		recs, next = append(recs, rec), append(next, at)
	}
	cfg := seglog.Config{SegmentBytes: 1000}
	var want map[string]string
	for group := 1; group <= 61; group += 4 {
		mem := vfs.NewMem()
		l := open(t, mem, cfg)
		for i := 0; i < len(recs); i += group {
			to := min(i+group, len(recs))
			check(t, l.Append(bytes.Join(recs[i:to], nil), next[to-1]))
			switch group % 3 {
			case 0:
				check(t, l.Sync())
			case 1:
				check(t, l.Close())
				l = open(t, mem, cfg)
			}
			if group > 8 && i > 0 {
				must(l.CutTo(next[i-1], fmt.Sprintf("/q/%d", i), "test"))
				check(t, l.Append(bytes.Join(recs[i:to], nil), next[to-1]))
			}
		}
		check(t, l.Close())
		got := segments(t, mem, "/log")
		if want == nil {
			want = got
		}
		if len(got) != len(want) {
			t.Fatalf("group %d: %d segments, want %d", group, len(got), len(want))
		}
		for name := range want {
			if got[name] != want[name] {
				t.Fatalf("group %d: %s differs", group, name)
			}
		}
	}
}

func TestReaderFollows(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{SegmentBytes: 300})
	r := must(l.NewReader(0))
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		all []byte
		err error
	}
	done := make(chan result)
	go func() { // owned by this test; ends with the context
		var res result
		for res.err == nil {
			var rec []byte
			rec, _, res.err = r.Next(ctx)
			res.all = append(res.all, rec...)
			if len(res.all) == 100*(frameHeader+50) {
				cancel()
			}
		}
		done <- res
	}()
	want := add(t, l, 100, 50)
	res := <-done
	if !errors.Is(res.err, context.Canceled) || !bytes.Equal(res.all, want) {
		t.Errorf("followed %d bytes of %d: %v", len(res.all), len(want), res.err)
	}
	check(t, l.Close())
	if _, _, err := r.Next(t.Context()); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("next on a closed log: %v", err)
	}
}

func TestReaderSeeksAnywhere(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{SegmentBytes: 300 << 10})
	defer l.Close()
	all := add(t, l, 4000, 200)
	check(t, l.Sync())
	const rec = frameHeader + 200
	for _, i := range []int{0, 1, 303, 304, 1387, 1388, 2000, 3999, 4000, 1388, 7} {
		at := uint64(i * rec)
		for name, r := range map[string]*seglog.Reader{
			"inside":  must(l.NewReader(at)),
			"outside": must(seglog.OpenReader(mem, "/log", frames{}, at)),
		} {
			got, next, err := r.ReadUpTo(at+10*rec, make([]byte, 0, 10*rec))
			if i == 4000 && name == "outside" {
				check(t, r.Close())
				continue // beyond the end is not for another process to know
			}
			check(t, err)
			want := all[at:min(len(all), int(at)+10*rec)]
			if !bytes.Equal(got, want) && len(got) < len(want) {
				more, _, err := r.ReadUpTo(at+10*rec, nil)
				check(t, err)
				got = append(bytes.Clone(got), more...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s, record %d: got %d bytes up to %d, want %d", name, i, len(got), next, len(want))
			}
			check(t, r.Close())
		}
		if i < 4000 {
			hdr, err := l.Header(at, nil)
			check(t, err)
			if !bytes.Equal(hdr, all[at:at+frameHeader]) {
				t.Errorf("header of record %d differs", i)
			}
		}
	}
	if _, err := l.NewReader(5); err == nil {
		t.Error("reader in the middle of a record")
	}
	if _, err := l.NewReader(l.End() + 1); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("reader beyond the end: %v", err)
	}
}

func TestTrim(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{SegmentBytes: 250})
	add(t, l, 10, 84) // 100 bytes each, two to a segment
	check(t, l.TrimBefore(500))
	if l.First() != 400 {
		t.Errorf("first is %d after a trim before 500, want 400", l.First())
	}
	if _, err := l.NewReader(300); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("reader in the trimmed part: %v", err)
	}
	if _, err := seglog.OpenReader(mem, "/log", frames{}, 300); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("reader from outside in the trimmed part: %v", err)
	}
	check(t, l.TrimBefore(1<<40))
	if l.First() != 800 || l.End() != 1000 {
		t.Errorf("first %d, end %d: the last segment must stay", l.First(), l.End())
	}
	check(t, l.Close())
	l = open(t, mem.CrashClone(5), seglog.Config{SegmentBytes: 250})
	if l.First() != 800 {
		t.Errorf("first is %d after a crash, want 800", l.First())
	}
	check(t, l.Close())
}

func TestCut(t *testing.T) {
	for _, keep := range []int{0, 1, 2, 3, 5, 9} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			mem := vfs.NewMem()
			l := open(t, mem, seglog.Config{SegmentBytes: 250})
			all := add(t, l, 10, 84)
			behind, beyond := must(l.NewReader(0)), must(l.NewReader(0))
			defer behind.Close()
			defer beyond.Close()
			for range 10 {
				_, _, err := beyond.Next(t.Context())
				check(t, err)
			}
			at := uint64(keep * 100)
			cut, err := l.CutTo(at, "/q/cut", "test", seglog.Attachment{Name: "note", Data: []byte("why")})
			check(t, err)
			if want := (seglog.Cut{Dir: "/q/cut", First: at, Next: 1000, Bytes: int64(1000 - at)}); cut != want {
				t.Errorf("got %+v, want %+v", cut, want)
			}
			clone := mem.CrashClone(vfs.CrashLoseAll)
			if got := contents(t, clone, "/q/cut", at, 1000); !bytes.Equal(got, all[at:]) {
				t.Error("quarantine differs from what was cut")
			}
			if string(slurp(t, clone, "/q/cut/note")) != "why" || len(slurp(t, clone, "/q/cut/cut.json")) == 0 {
				t.Error("attachments are missing")
			}
			if _, _, err := beyond.Next(t.Context()); !errors.Is(err, tidegate.ErrConflict) {
				t.Errorf("reader beyond the cut: %v", err)
			}
			if l.End() != at || l.Durable() != at {
				t.Errorf("end %d, durable %d, want %d", l.End(), l.Durable(), at)
			}
			fresh := add(t, l, 3, 50)
			var got []byte
			for range keep + 3 {
				rec, _, err := behind.Next(t.Context())
				check(t, err)
				got = append(got, rec...)
			}
			if want := append(bytes.Clone(all[:at]), fresh...); !bytes.Equal(got, want) {
				t.Error("reader behind the cut reads something else")
			}
			check(t, l.Close())
		})
	}
}

func TestCutErrorsChangeNothing(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, mem, seglog.Config{SegmentBytes: 250})
	defer l.Close()
	add(t, l, 10, 84)
	for _, at := range []uint64{50, 1001, 1 << 60} {
		if _, err := l.CutTo(at, "/q/x", "test"); err == nil {
			t.Errorf("cut to %d: no error", at)
		}
	}
	mem.SetCapacity(1500)
	if _, err := l.CutTo(300, "/q/x", "test"); !errors.Is(err, tidegate.ErrFull) {
		t.Errorf("cut without room for the quarantine: %v", err)
	}
	mem.SetCapacity(0)
	if l.End() != 1000 || l.Err() != nil {
		t.Errorf("end %d, %v", l.End(), l.Err())
	}
	add(t, l, 1, 10)
	must(l.CutTo(300, "/q/x", "test"))
	if cut := must(l.CutTo(300, "/q/x", "test")); cut != (seglog.Cut{}) {
		t.Errorf("cut of nothing: %+v", cut)
	}
}

// TestFullDisk fills the disk in the middle of appends: the error says so, the
// log holds whole records, and goes on when there is room again.
func TestFullDisk(t *testing.T) {
	for _, segmentBytes := range []int64{1 << 20, 300} {
		mem := vfs.NewMem()
		l := open(t, mem, seglog.Config{SegmentBytes: segmentBytes})
		want := add(t, l, 5, 84)
		for room := uint64(0); room < 500; room += 37 {
			mem.SetCapacity(sizeOf(t, mem) + room)
			batch := bytes.Join([][]byte{frame(l.End(), text(1, 84)), frame(l.End()+100, text(2, 84)), frame(l.End()+200, text(3, 84)), frame(l.End()+300, text(4, 84))}, nil)
			before := l.End()
			err := l.Append(batch, before+400)
			if err != nil && !errors.Is(err, tidegate.ErrFull) {
				t.Fatalf("room %d: %v", room, err)
			}
			if l.Err() != nil {
				t.Fatalf("room %d: the log has stopped: %v", room, l.Err())
			}
			want = append(want, batch[:l.End()-before]...)
			mem.SetCapacity(0)
			want = append(want, add(t, l, 1, 20)...)
			check(t, l.Sync())
			for seed := range int64(8) {
				clone := mem.CrashClone(seed)
				after, rec, err := seglog.Open(clone, "/log", frames{}, seglog.Config{SegmentBytes: segmentBytes})
				if err != nil || rec.TornBytes > 0 || after.End() != uint64(len(want)) {
					t.Fatalf("room %d seed %d: %+v, %v", room, seed, rec, err)
				}
				check(t, after.Close())
			}
		}
		check(t, l.Close())
		if got := contents(t, mem, "/log", 0, uint64(len(want))); !bytes.Equal(got, want) {
			t.Error("contents differ")
		}
	}
}

// sizeOf is the bytes in files.
func sizeOf(t testing.TB, mem *vfs.Mem) uint64 {
	t.Helper()
	mem.SetCapacity(1 << 40)
	free, total, err := mem.Free("/")
	check(t, err)
	return total - free
}
