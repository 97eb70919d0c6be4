package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/journal"
	journalbase "github.com/tidegate/tidegate/stores/journal/base"
)

// TestExport: what is exported is an archive of the range by itself, and says when
// anything of it is lost.
func TestExport(t *testing.T) {
	a := archiveJournal(t, 2000)
	for _, n := range []int{200, 600, 1700} {
		a.m.State(t, journalbase.State{Position: a.ends[n-1], Records: uint64(n), Lineage: a.lineage}, 1, []byte("the state"))
	}
	part := *a
	part.root = filepath.Join(t.TempDir(), "part")
	part.url = "file://" + part.root
	_, errs := a.run(t, cli.Usage, "export")
	says(t, errs, "--service", "--from", "--out")
	a.run(t, cli.Usage, "export", "--service", "bank", "--from", "latest", "--out", part.root)
	a.run(t, cli.Usage, "export", "--service", "bank", "--from", "seq:9", "--to", "seq:8", "--out", part.root)
	a.run(t, cli.NotFound, "export", "--service", "bank", "--from", "2031-01-01T00:00:00Z", "--out", part.root)
	if _, err := os.Stat(part.root); !os.IsNotExist(err) {
		t.Errorf("a refusal has written: %v", err)
	}
	out, _ := a.run(t, cli.OK, "export", "--service", "bank", "--from", "2026-03-01T00:05:00Z", "--to", "2026-03-01T00:20:00Z", "--out", part.root, "-o", "json")
	var res exportResult
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	if len(res.Bases) != 2 || res.Begin.Seq <= 1 || res.Records >= 1500 {
		t.Errorf("exported: %s", out)
	}
	comesLast(t, part.root, archive.FormatName, archive.ExportName)
	part.run(t, cli.OK, "window")
	part.run(t, cli.OK, "verify")
	part.run(t, cli.NotFound, "where", "--service", "bank", "2026-03-01T00:00:10Z")
	for at, first := range map[string]int{"2026-03-01T00:05:00Z": 200, "2026-03-01T00:20:00Z": 600} {
		whole, of := filepath.Join(t.TempDir(), "whole"), filepath.Join(t.TempDir(), "of")
		a.run(t, cli.OK, "restore", "--service", "bank", "--to", at, "--into", whole)
		out, _ := part.run(t, cli.OK, "restore", "--service", "bank", "--to", at, "--into", of)
		if strings.Contains(out, "WARNING") {
			t.Errorf("to %s: nothing proves what the time is: %s", at, out)
		}
		if got, want := journalText(t, of), journalText(t, whole); got != want {
			t.Errorf("to %s: %d bytes of records restored, want %d", at, len(got), len(want))
		}
		j, err := journal.Open(filepath.Join(of, "journal"), journal.Config{Service: "bank", Stream: "main"})
		if err != nil {
			t.Fatal(err)
		}
		if j.First() != a.ends[first-1] {
			t.Errorf("to %s: begins at %s, want the base at %s", at, j.First(), a.ends[first-1])
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, errs = a.run(t, cli.Refused, "export", "--service", "bank", "--from", "seq:1", "--out", part.root)
	says(t, errs, "it is not empty", "hint: ")

	// The last segment is gone: what is left is a good archive, and not what was exported.
	segments, err := filepath.Glob(filepath.Join(part.root, "streams", "*", "log", "*.seg"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	last := segments[len(segments)-1]
	if err := os.Remove(last); err != nil {
		t.Fatal(err)
	}
	out, _ = part.run(t, cli.Unverified, "verify")
	says(t, out, archive.ExportName, filepath.Base(last))
}

// journalText is what the segments of a journal hold that was restored into a directory.
func journalText(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "journal", "log", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	var all []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	return string(all)
}

// comesLast checks that a directory's file was written after all but the last one: a
// bucket of an export that was cut off must be no archive.
func comesLast(t *testing.T, root, name, last string) {
	t.Helper()
	at, err := os.Stat(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == filepath.Join(root, last) {
			return err
		}
		info, err := d.Info()
		if err == nil && info.ModTime().After(at.ModTime()) {
			t.Errorf("%s was written after %s", path, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
