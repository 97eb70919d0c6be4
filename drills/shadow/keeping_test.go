package shadow

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/vfs"
)

// nobody is a source of which a drill asks no more than who it is.
type nobody struct{ Source }

func (nobody) Identity() tidegate.Identity { return tidegate.Identity{Role: tidegate.RoleDrill} }

// TestArchiveOfTheEvidence: it must be the drills' own, and a drill whose evidence would go
// to a service's archive does not begin.
func TestArchiveOfTheEvidence(t *testing.T) {
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "scratch"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		has  string // an object
		want evidence.CheckOutcome
		why  string
	}{
		"of its own":   {"drills/bank/0000000001.dsse.json", evidence.CheckPassed, ""},
		"a service's":  {"streams/0a000000000000000000000000000001/x", evidence.CheckFailed, "streams/0a"},
		"a gate's":     {"registry/x", evidence.CheckFailed, "registry/x"},
		"live/archive": {"x", evidence.CheckFailed, "live directory"},
		"not there":    {"", evidence.CheckUnknown, "not there"},
	} {
		dir := filepath.Join(home, name)
		if tc.has != "" {
			path := filepath.Join(dir, tc.has)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d := &Drill{fs: vfs.OS(), src: nobody{}, cfg: Config{
			Scratch: filepath.Join(home, "scratch"), Live: []string{filepath.Join(home, "live")},
			Evidence: Evidence{Archive: place.Config{URL: "file://" + dir}},
		}, opts: Options{Open: func(ctx context.Context, cfg place.Config) (bucket.Bucket, error) {
			return place.Open(ctx, cfg, place.Around{}, place.Linked{})
		}}}
		got := d.own(t.Context())
		if len(got) != 1 || got[0].Outcome != tc.want || !strings.Contains(got[0].Why, tc.why) {
			t.Errorf("%s: %+v", name, got)
		}
		r := &run{d: d}
		if err := r.enter(t.Context()); err == nil || (tc.want == evidence.CheckFailed) != strings.Contains(err.Error(), "archive of the evidence") {
			t.Errorf("%s: begins with %v", name, err) // the scratch directory is a file: none gets further
		}
	}
	if got := (&Drill{}).own(t.Context()); got != nil {
		t.Errorf("of a directory: %+v", got)
	}
}

func TestEvidenceLiesInOnePlace(t *testing.T) {
	const bucket = "archive: {url: s3://drills/bank}\n"
	for text, want := range map[string]string{
		"directory: /srv/drill/evidence\n": "",
		bucket:                             "",
		"":                                 "directory: want it, or archive",
		bucket + "directory: /srv/drill/evidence\n":         "directory: want none beside archive",
		"directory: evidence\n":                             "directory: want an absolute path",
		"archive: {url: gs://drills}\n":                     "archive.url: want",
		bucket + "state: here\n":                            "state: want an absolute path",
		bucket + "directory: here\n" + "state: /srv/here\n": "directory: want none",
	} {
		e, err := config.Parse[Evidence]("evidence.yaml", []byte(text+"key: /etc/drill.key\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if state := map[bool]string{true: stateDefault, false: "/srv/drill"}[text == bucket]; err == nil && e.State != state {
			t.Errorf("%q: notes go to %s", text, e.State)
		}
	}
}
