package past

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// made is a restore out of archive a of so many MiB of files at 10 ms each, with a second besides.
func made(mib int64) Recovery {
	return Recovery{Archive: "a", Store: "journal", Stream: tidegate.StreamID{1}, Parts: map[Part]Timing{
		Files: {mib << 20, time.Duration(mib) * 10 * time.Millisecond}, Rest: {0, time.Second},
	}}
}

func wants(r Recovery, parts map[Part]Timing) *Recovery {
	r.Parts = parts
	return &r
}

func TestPredict(t *testing.T) {
	slow := made(1000)
	slow.Parts[Files] = Timing{1000 << 20, time.Hour}
	held := made(100)
	held.Parts[Files] = Timing{100 << 20, time.Hour}
	other := made(100)
	other.Archive = "b"
	replay := Recovery{Archive: "gone", Store: "journal", Stream: tidegate.StreamID{1}, Parts: map[Part]Timing{Replay: {64 << 20, 2 * time.Second}}}
	files := func(mib int64) map[Part]Timing { return map[Part]Timing{Files: {Bytes: mib << 20}, Rest: {}} }
	for name, tt := range map[string]struct {
		all   Recoveries
		want  *Recovery
		took  time.Duration
		by    int
		known bool
	}{
		"nothing measured":         {nil, wants(made(1), files(100)), 0, 0, false},
		"nothing wanted":           {Recoveries{made(1)}, wants(made(1), nil), 0, 0, false},
		"by one":                   {Recoveries{made(100)}, wants(made(1), files(200)), 3 * time.Second, 1, true},
		"another archive":          {Recoveries{other}, wants(made(1), files(100)), 0, 0, false},
		"a part that was not made": {Recoveries{made(100)}, wants(made(1), map[Part]Timing{Log: {Bytes: 1}}), 0, 0, false},
		"sizes that come nearest":  {Recoveries{slow, made(90), made(95), made(100), made(105), made(110)}, wants(made(1), files(100)), 2 * time.Second, 5, true},
		"far larger than any":      {Recoveries{made(1), made(2)}, wants(made(1), files(33)), 0, 0, false},
		"as large as it may be":    {Recoveries{made(1), made(2)}, wants(made(1), files(32)), 1320 * time.Millisecond, 2, true},
		"one that was held up":     {Recoveries{made(100), held, made(100)}, wants(made(1), files(100)), 2 * time.Second, 3, true},
		"a replay, of a stream":    {Recoveries{replay}, wants(made(1), map[Part]Timing{Replay: {Bytes: 32 << 20}}), time.Second, 1, true},
		"nothing to replay":        {nil, wants(made(1), map[Part]Timing{Replay: {}}), 0, 0, true},
		"a replay, of another":     {Recoveries{replay}, wants(Recovery{Stream: tidegate.StreamID{2}}, map[Part]Timing{Replay: {Bytes: 1}}), 0, 0, false},
	} {
		took, by, known := tt.all.Predict(tt.want)
		if took != tt.took || by != tt.by && known || known != tt.known {
			t.Errorf("%s: %s by %d, %v; want %s by %d, %v", name, took, by, known, tt.took, tt.by, tt.known)
		}
	}
}

func TestKeep(t *testing.T) {
	fsys, path := vfs.OS(), filepath.Join(t.TempDir(), "state", "recoveries.json")
	if all, err := Read(fsys, path); err != nil || all != nil {
		t.Fatalf("no file: %v, %v", all, err)
	}
	for i := range int64(2) {
		if err := Keep(fsys, path, made(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Read(fsys, path)
	if err != nil || len(all) != 2 || all[1].Parts[Files] != made(2).Parts[Files] {
		t.Errorf("%+v, %v", all, err)
	}
	if err := os.WriteFile(path, []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(fsys, path); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("version 2: %v", err)
	}
	if err := Keep(fsys, path, made(1)); err == nil {
		t.Error("what is not known is written over")
	}
	lock, err := fsys.Lock(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := Keep(fsys, path, made(1)); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("while another writes: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
}
