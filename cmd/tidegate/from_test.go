package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// TestStageIsNobodyElses: a directory beside that of a restore may be the operator's own.
func TestStageIsNobodyElses(t *testing.T) {
	stage, id := filepath.Join(t.TempDir(), "pg.base"), tidegate.StreamID{7}
	if err := checkStage(vfs.OS(), stage); err != nil {
		t.Errorf("it is not there: %v", err)
	}
	ours := filepath.Join(stage, id.String(), "packs")
	if err := os.MkdirAll(ours, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := checkStage(vfs.OS(), stage); err != nil {
		t.Errorf("it is of a fetch: %v", err)
	}
	for _, name := range []string{filepath.Join(stage, "global"), filepath.Join(stage, tidegate.ID{8}.String(), "data")} {
		if err := os.MkdirAll(name, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := checkStage(vfs.OS(), stage); tidegate.ClassOf(err) != tidegate.Refused || tidegate.HintOf(err) == "" {
			t.Errorf("it has %s: %v", name, err)
		}
		if err := unstage(stage, id); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(name); err != nil {
			t.Errorf("it went: %v", err)
		}
		if err := os.RemoveAll(stage); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(ours, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unstage(stage, id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stage); !os.IsNotExist(err) {
		t.Errorf("the fetched base is left: %v", err)
	}
}
