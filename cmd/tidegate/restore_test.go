package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/snapshot"
	journalbase "github.com/tidegate/tidegate/stores/journal/base"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

// archived is an archive of a journal, in a directory.
type archived struct {
	root     string
	url      string
	past     string // file of recoveries
	m        *archivetest.Maker
	end      tidegate.Position
	ends     []tidegate.Position // of every record
	lineage  tidegate.Lineage
	segments []string
	newest   time.Time
}

// archiveJournal archives n records of some hundred bytes, a second apart.
func archiveJournal(t *testing.T, n int) *archived {
	t.Helper()
	a := newArchived(t)
	from := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(from, journal.Config{Service: "bank", Stream: "main"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }() // all of it was synced
	epoch := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	a.m.Time = epoch.UnixNano()
	a.m.Lineage(t, j.Lineage(), "")
	for i := range n {
		a.newest = epoch.Add(time.Duration(i) * time.Second)
		r, err := j.SubmitAt(t.Context(), j.End(), bytes.Repeat([]byte(fmt.Sprint(i)), 60), a.newest)
		if err != nil {
			t.Fatal(err)
		}
		a.ends = append(a.ends, r.Next)
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.ship(t, from, j)
	return a
}

func newArchived(t *testing.T) *archived {
	t.Helper()
	a := &archived{root: t.TempDir(), past: filepath.Join(t.TempDir(), "state", "recoveries.json")}
	a.url = "file://" + a.root
	a.m = archivetest.New(t, dir.New(vfs.OS(), a.root), "journal")
	return a
}

// ship archives all that the journal in a folder holds.
func (a *archived) ship(t *testing.T, from string, j *journal.Journal) {
	t.Helper()
	c, err := capture.New(vfs.OS(), from).Follow(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // only read
	for a.m.At < j.End() {
		u, err := c.Read(j.End(), 16<<10)
		if err != nil {
			t.Fatal(err)
		}
		a.m.Data(t, u.Payload, u.Records, u.Oldest, u.Newest)
		if a.m.Seq%4 == 0 || a.m.At == j.End() {
			a.segments = append(a.segments, a.m.Segment(t))
		}
	}
	a.end, a.lineage = j.End(), j.Lineage()
}

// tidegateCommand runs the program within the test.
func (a *archived) run(t *testing.T, want cli.Code, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	line := append([]string{"tidegate"}, args...)
	if args[0] == "restore" || args[0] == "replay" {
		line = append(line, "--recoveries", a.past)
	}
	if code := cli.Code(run(t.Context(), append(line, "--url", a.url), nil, &out, &errs)); code != want {
		t.Fatalf("%v: exit code %d, want %d\n%s%s", args, code, want, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func says(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("want %q in:\n%s", w, text)
		}
	}
}

func TestRestoreCommand(t *testing.T) {
	a := archiveJournal(t, 2000)
	into := filepath.Join(t.TempDir(), "into")

	out, _ := a.run(t, cli.OK, "restore", "--service", "bank", "--into", into, "--dry-run")
	says(t, out, "restore bank/main to latest", "batches 1 to", "room: ", "predicted: unknown\n", "its service replays ", "predicted unknown, no `tidegate replay` of it")
	if _, err := os.Stat(into); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run has written: %v", err)
	}
	out, _ = a.run(t, cli.OK, "restore", "--service", "bank/main", "--into", into)
	says(t, out, "to position "+a.end.String(), "in: "+into+"/journal", "next: move ")
	j, err := journal.Open(filepath.Join(into, "journal"), journal.Config{Service: "bank", Stream: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if j.End() != a.end || j.Records() != 2000 {
		t.Errorf("ends at %s with %d records", j.End(), j.Records())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	_, errs := a.run(t, cli.Refused, "restore", "--service", "bank", "--into", into)
	says(t, errs, "it is not empty", "hint: ")
	fresh := filepath.Join(t.TempDir(), "fresh")
	_, errs = a.run(t, cli.NotFound, "restore", "--service", "bank", "--into", fresh, "--to", "2031-01-01T00:00:00Z")
	says(t, errs, "not archived there", "hint: `tidegate window`")
	a.run(t, cli.NotFound, "restore", "--service", "shop", "--into", fresh)
	a.run(t, cli.NotFound, "restore", "--service", "bank", "--into", fresh, "--to", "ffffffffffffffff")
	a.run(t, cli.Usage, "restore", "--service", "bank", "--into", fresh, "--to", "yesterday")
	a.run(t, cli.Usage, "restore", "--service", "bank", "--into", fresh, "--start")
	if _, err := os.Stat(fresh); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refusal has written: %v", err)
	}

	out, _ = a.run(t, cli.OK, "restore", "--service", "bank", "--into", fresh, "--to", "2026-03-01T00:10:00Z", "-o", "json")
	var res restoreResult
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	if res.Records == nil || *res.Records != 601 || res.Newest == nil || !res.Newest.Equal(time.Date(2026, 3, 1, 0, 10, 0, 0, time.UTC)) {
		t.Errorf("to a time: %s", out)
	}
	if res.Unproven != "" {
		t.Errorf("a later record is archived: %s", res.Unproven)
	}
	// By the one before; how fast its service is, nobody has measured.
	if res.Predicted == nil || res.PredictedBy == nil || *res.PredictedBy != 1 || res.ReplayPredicted != nil || res.Recovery != nil {
		t.Errorf("predicted: %s", out)
	}

	// Nothing later than the newest record says that nothing else was committed then.
	out, _ = a.run(t, cli.OK, "restore", "--service", "bank", "--into", filepath.Join(t.TempDir(), "last"), "--to", a.newest.Format(time.RFC3339))
	says(t, out, "WARNING: no record later than the target is archived", "may be missing")
	a.m.Heartbeat(t, a.newest.Add(30*time.Minute).UnixNano())
	a.m.Segment(t)
	_, errs = a.run(t, cli.NotFound, "restore", "--service", "bank", "--into", filepath.Join(t.TempDir(), "stalled"), "--to", a.newest.Add(25*time.Minute).Format(time.RFC3339))
	says(t, errs, "its newest record is of", "latest is everything")
}

func TestWindowAndWhereCommands(t *testing.T) {
	a := archiveJournal(t, 2000)
	out, _ := a.run(t, cli.OK, "window")
	says(t, out, "bank/main  journal", "yes ", a.newest.Format(time.RFC3339))
	file := filepath.Join(t.TempDir(), "archive.yaml")
	if err := os.WriteFile(file, []byte("archive: {url: '"+a.url+"', keep: {window: 1h, daily: 3}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"tidegate", "window", "--archive", file}, nil, &stdout, &stderr); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	says(t, stdout.String(), "window of 1h0m0s: nothing goes: there is no base")
	out, _ = a.run(t, cli.OK, "where", "--service", "bank", "seq:3")
	says(t, out, "seq 3 of epoch 1, generation 1", "chain ")
	out, _ = a.run(t, cli.OK, "where", "--service", "bank", "2026-03-01T00:10:00Z", "-o", "json")
	says(t, out, `"seq": "00000000000000`)
	a.run(t, cli.NotFound, "where", "--service", "bank", "seq:100000")

	bad := archive.StreamName(tidegate.StreamID{0xa0})
	if _, err := a.m.B.Put(t.Context(), bad, strings.NewReader("{"), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"window", "verify"} {
		out, errs := a.run(t, cli.Unverified, command)
		says(t, out, "bank/main", bad)
		says(t, errs, "1 of its objects")
		_, errs = a.run(t, cli.OK, command, "--service", "bank")
		says(t, errs, "damaged: ", bad)
	}
	a.run(t, cli.OK, "restore", "--service", "bank", "--into", filepath.Join(t.TempDir(), "into"), "--dry-run")
	if err := a.m.B.Remove(t.Context(), bad); err != nil {
		t.Fatal(err)
	}

	a.run(t, cli.OK, "verify")
	a.m.Change(t, a.segments[1], func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
	if err := a.m.B.Remove(t.Context(), a.segments[3]); err != nil {
		t.Fatal(err)
	}
	out, errs := a.run(t, cli.Unverified, "verify")
	says(t, out, a.segments[1], "were never archived")
	says(t, errs, "2 of its objects")
	out, _ = a.run(t, cli.OK, "window", "-o", "json")
	says(t, out, `"holes": [`, `"restorable": false`)
	_, errs = a.run(t, cli.Unverified, "restore", "--service", "bank", "--into", filepath.Join(t.TempDir(), "into"))
	says(t, errs, "were never archived")
}

// TestStatesOfAJournal: a base is where a restore begins, for every command.
func TestStatesOfAJournal(t *testing.T) {
	a := archiveJournal(t, 300)
	at := a.ends[199]
	a.m.State(t, journalbase.State{Position: at, Records: 200, Lineage: a.lineage}, 1, []byte("the state"))
	out, _ := a.run(t, cli.OK, "window")
	says(t, out, at.String()+" to "+at.String())
	if strings.Contains(out, "of no use") {
		t.Error(out)
	}
	a.run(t, cli.OK, "verify")
	out, _ = a.run(t, cli.OK, "where", "--service", "bank", "latest")
	says(t, out, "restored from: base ")
	out, _ = a.run(t, cli.OK, "where", "--service", "bank", a.ends[100].String())
	says(t, out, "restored from: the log's beginning")
	into := filepath.Join(t.TempDir(), "into")
	out, _ = a.run(t, cli.OK, "restore", "--service", "bank", "--into", into)
	says(t, out, "to position "+a.end.String(), "its service replays ", "predicted unknown")
	j, err := journal.Open(filepath.Join(into, "journal"), journal.Config{Service: "bank", Stream: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if j.First() != at || j.End() != a.end || j.Records() != 300 {
		t.Errorf("[%s, %s), %d records", j.First(), j.End(), j.Records())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	out, _ = a.run(t, cli.OK, "restore", "--service", "bank", "--into", filepath.Join(t.TempDir(), "into"), "--base", "none", "-o", "json")
	says(t, out, fmt.Sprintf(`"replay_bytes": %d`, int64(a.end)))

	archivetest.BaseOf(t, a.m.Root, snapshot.Info{Stream: archivetest.Stream, Generation: 1, Opened: 1}, func(context.Context, snapshot.Writer) (snapshot.Base, error) {
		return snapshot.Base{Start: at, End: at}, nil
	})
	a.m.Mirror(t, a.m.Root)
	out, _ = a.run(t, cli.Unverified, "verify")
	says(t, out, "is none of a journal")
}

// TestRestoreKilled kills the program again and again while it restores; the last one
// goes on with what there is.
func TestRestoreKilled(t *testing.T) {
	a := archiveJournal(t, 5000)
	into := filepath.Join(t.TempDir(), "into")
	args := []string{"restore", "--service", "bank", "--into", into, "--url", a.url, "--recoveries", "none"}
	for _, until := range []string{"restore.json", "restoring", "restoring/meta.json", "restoring/log"} {
		cmd := exec.Command("tidegate", args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { // ends with the process, which is killed below
			_ = cmd.Wait() // it was killed, or has refused what is done
			close(ended)
		}()
		for there := false; !there; {
			_, err := os.Stat(filepath.Join(into, until))
			select {
			case <-ended:
				there = true
			case <-time.After(time.Millisecond):
				there = err == nil
			}
		}
		_ = cmd.Process.Kill() // it may have ended
		<-ended
	}
	if _, err := os.Stat(filepath.Join(into, "restored.json")); errors.Is(err, os.ErrNotExist) {
		a.run(t, cli.OK, "restore", "--service", "bank", "--into", into)
	}
	j, err := journal.Open(filepath.Join(into, "journal"), journal.Config{Service: "bank", Stream: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if j.End() != a.end || j.Records() != 5000 || j.Recovery() != (journal.Recovery{}) {
		t.Errorf("ends at %s with %d records, %+v", j.End(), j.Records(), j.Recovery())
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}
