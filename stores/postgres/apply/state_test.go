package apply

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

var fullState = saved{
	Version: savedVersion, Stream: tidegate.ID{1, 2}, Phase: phaseActive, Generation: 2, Base: "f281", Lineage: "pg:7:1+2@0000000003000158",
	Release: "15.18", Epoch: 5, At: 0x3000158, Why: "somebody said so",
}

// Bytes of version 1 are on disks.
const fullText = `{
  "version": 1,
  "stream": "01020000000000000000000000000000",
  "phase": "active",
  "generation": 2,
  "base": "f281",
  "lineage": "pg:7:1+2@0000000003000158",
  "release": "15.18",
  "epoch": "5",
  "at": "0000000003000158",
  "why": "somebody said so"
}
`

func TestStateOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), stateFile)
	if s, err := readSaved(vfs.OS(), path); err != nil || s.Phase != phaseNone {
		t.Errorf("nothing there: %+v, %v", s, err)
	}
	if err := writeSaved(vfs.OS(), path, fullState); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, path); got != fullText {
		t.Errorf("wrote %s", got)
	}
	if s, err := readSaved(vfs.OS(), path); err != nil || s != fullState {
		t.Errorf("read %+v, %v", s, err)
	}
}

func TestStateIsChecked(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":        "",
		"other version":  `{"version":2}`,
		"unknown phase":  `{"version":1,"phase":"dancing"}`,
		"no generation":  `{"version":1,"phase":"following","lineage":"pg:7:1"}`,
		"no lineage":     `{"version":1,"phase":"following","generation":1}`,
		"active nowhere": `{"version":1,"phase":"active","generation":1,"lineage":"pg:7:1","epoch":"1"}`,
	} {
		if _, err := parseSaved([]byte(text)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := parseSaved([]byte(`{"version":2}`)); !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("other version: %v", err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(fullText))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSaved(b)
		if err != nil {
			return
		}
		if err := s.validate(); err != nil {
			t.Fatalf("%+v was read and is refused: %v", s, err)
		}
	})
}
