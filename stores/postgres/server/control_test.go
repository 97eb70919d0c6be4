package server

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// golden are control files as initdb of each release made them.
var golden = map[string]Control{
	"15": {Checksums: true},
	"17": {},
	"18": {Checksums: true}, // the default from 18 on
}

func TestGoldenControlFiles(t *testing.T) {
	for release, want := range golden {
		b, err := os.ReadFile("testdata/control-" + release + ".bin")
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseControl(b)
		if err != nil {
			t.Errorf("%s: %v", release, err)
			continue
		}
		if c.System == 0 || c.Redo == 0 || c.Checkpoint != c.Redo {
			t.Errorf("%s: %+v", release, c)
		}
		want.System, want.Redo, want.Checkpoint = c.System, c.Redo, c.Checkpoint
		want.State, want.Timeline, want.SegmentSize, want.WALLevel = StateShutDown, 1, wal.SegmentSizeDefault, "replica"
		want.Required = Sizes{100, 8, 10, 0, 64}
		if c != want {
			t.Errorf("%s:\n got %+v\nwant %+v", release, c, want)
		}
		end := 292 // the checksum included
		if release == "18" {
			end = 296
		}
		for i := range end {
			torn := bytes.Clone(b)
			torn[i] ^= 1
			if _, err := ParseControl(torn); err == nil {
				t.Errorf("%s: a flipped bit in byte %d is not noticed", release, i)
			}
		}
	}
}

func FuzzParseControl(f *testing.F) {
	for release := range golden {
		b, err := os.ReadFile("testdata/control-" + release + ".bin")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:200])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseControl(b); err == nil && c.SegmentSize.Validate() != nil {
			t.Errorf("accepted %+v", c)
		}
	})
}

// TestControlIsWhatPostgresSays compares with pg_controldata, on a follower.
func TestControlIsWhatPostgresSays(t *testing.T) {
	p := primary(t, map[string]string{
		"max_connections": "51", "max_worker_processes": "9", "max_wal_senders": "11", "max_prepared_transactions": "3",
		"max_locks_per_transaction": "66", "wal_log_hints": "on", "track_commit_timestamp": "on",
	})
	s := follower(t, p, home(t, p))
	level(t, s, p)
	if err := s.Stop(within(t), StopFast); err != nil {
		t.Fatal(err)
	}
	c, err := s.Control()
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for line := range strings.Lines(p.Run(t, "pg_controldata", s.DataDir())) {
		name, value, _ := strings.Cut(line, ":")
		said[name] = strings.TrimSpace(value)
	}
	for name, got := range map[string]string{
		"Database system identifier":        strconv.FormatUint(c.System, 10),
		"Database cluster state":            c.State.String(),
		"Latest checkpoint location":        c.Checkpoint.String(),
		"Latest checkpoint's REDO location": c.Redo.String(),
		"Latest checkpoint's TimeLineID":    c.Timeline.String(),
		"Minimum recovery ending location":  c.MinRecovery.String(),
		"Backup start location":             c.BackupStart.String(),
		"wal_level setting":                 c.WALLevel,
		"wal_log_hints setting":             onOff(c.HintBits),
		"track_commit_timestamp setting":    onOff(c.CommitTimes),
		"max_connections setting":           strconv.Itoa(c.Required.MaxConnections),
		"max_worker_processes setting":      strconv.Itoa(c.Required.MaxWorkerProcesses),
		"max_wal_senders setting":           strconv.Itoa(c.Required.MaxWALSenders),
		"max_prepared_xacts setting":        strconv.Itoa(c.Required.MaxPreparedTransactions),
		"max_locks_per_xact setting":        strconv.Itoa(c.Required.MaxLocksPerTransaction),
		"Bytes per WAL segment":             strconv.FormatUint(uint64(c.SegmentSize), 10),
	} {
		if said[name] != got {
			t.Errorf("%s: got %q, pg_controldata says %q", name, got, said[name])
		}
	}
}
