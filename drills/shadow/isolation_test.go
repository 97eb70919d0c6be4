package shadow

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/stores/journal/replay"
)

// TestApartByWhereLinksLead: a live directory is one by whatever name it is reached, and
// one of which nobody says whether it can be written is not known to be safe.
func TestApartByWhereLinksLead(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.MkdirAll(at("disk/live/sub"), 0o700), os.MkdirAll(at("own"), 0o700), os.WriteFile(at("file"), nil, 0o600), os.Symlink(at("disk"), at("mount")), os.Symlink(at("disk/live/sub"), at("own/way")))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		scratch, live string
		place, access evidence.CheckOutcome
	}{
		"the live one by a link":    {at("disk/live/drills"), at("mount/live"), evidence.CheckFailed, evidence.CheckFailed},
		"scratch by a link":         {at("own/way/new/deep"), at("disk/live"), evidence.CheckFailed, evidence.CheckFailed},
		"neither":                   {at("own/new"), at("none"), evidence.CheckPassed, evidence.CheckPassed},
		"it cannot be told of live": {at("own/new"), at("file/live"), evidence.CheckPassed, evidence.CheckUnknown},
	} {
		if got := apart(tc.scratch, []string{tc.live}); got[0].Outcome != tc.place || got[1].Outcome != tc.access {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestDigestOfItsOwnStream: another stream's state says nothing of this one's.
func TestDigestOfItsOwnStream(t *testing.T) {
	f := &fed{checked: make([][]replay.Checked, 2), outcomes: []replay.Outcome{{Verdict: replay.Differs}, {Verdict: replay.Unknown}}}
	for i, want := range []evidence.CheckOutcome{evidence.CheckFailed, evidence.CheckUnknown} {
		if c := f.digest(i, &part{src: &archive.Stream{Info: archive.StreamInfo{Name: "main"}}}, false); c.Outcome != want {
			t.Errorf("stream %d: %+v", i, c)
		}
	}
}
