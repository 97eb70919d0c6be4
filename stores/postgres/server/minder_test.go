package server

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// TestWrapper starts the server by a command that ends at once, as systemd-run
// does, and lets its log grow over the limit.
func TestWrapper(t *testing.T) {
	p := primary(t, nil)
	cfg := home(t, p)
	cfg.Command = []string{"/bin/sh", "-c", `"$@" & exit 0`, "sh"}
	cfg.LogBytesMax = 1 << 20
	s := follower(t, p, cfg)
	w := watchOver(t, s)
	if _, err := s.Promote(within(t), ends(t, s, p)); err != nil {
		t.Fatal(err)
	}
	sql(t, s, `DO $$ BEGIN FOR i IN 1..1500 LOOP RAISE WARNING '%', repeat('x', 1000); END LOOP; END $$`)
	eventually(t, "a log file that begins anew", func() (bool, error) {
		older, err := s.fsys.Stat(strings.TrimSuffix(s.LogPath(), logFile) + olderLogFile)
		if err != nil {
			return false, nil // not yet
		}
		now, err := s.logEnd()
		return older.Size > cfg.LogBytesMax && now < cfg.LogBytesMax, err
	})
	// What comes after is read still.
	sql(t, s, `DO $$ BEGIN RAISE LOG 'could not receive data from WAL stream: so it says'; END $$`)
	eventually(t, "the finding of a line", func() (bool, error) {
		for _, f := range w.all() {
			if strings.Contains(f.Message, "so it says") {
				return true, nil
			}
		}
		return false, nil
	})
}

// TestRunTellsWhatItCannotStart breaks the configuration of a server that ends.
func TestRunTellsWhatItCannotStart(t *testing.T) {
	p := primary(t, nil)
	s := follower(t, p, home(t, p))
	w := watchOver(t, s)
	config := s.inData(configFile)
	good, err := readFile(s.fsys, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.replace(config, append([]byte("nonsense\n"), good...)); err != nil {
		t.Fatal(err)
	}
	process, err := s.find()
	if err != nil || process == nil {
		t.Fatalf("find: %v, %v", process, err)
	}
	defer process.close()
	if err := process.signal(9); err != nil {
		t.Fatal(err)
	}
	f := w.until(t, FoundConfiguration)
	if !strings.Contains(f.Message, "syntax error") || f.Hint == "" {
		t.Errorf("finding is %+v", f)
	}
	if err := s.replace(config, good); err != nil {
		t.Fatal(err)
	}
	pgtest.Until(t, "the server to be back", s.WaitReady)
	level(t, s, p)
}

// TestPromoteInPadding ends the log behind the record that ends a segment early:
// the server is at the end of the segment then, and begins its timeline there.
func TestPromoteInPadding(t *testing.T) {
	// Nobody writes a record of his own accord.
	p := primary(t, map[string]string{"autovacuum": "off", "bgwriter_delay": "10s"})
	s := follower(t, p, home(t, p))
	p.SQL(t, "CREATE TABLE before (n int)")
	var at wal.LSN
	eventually(t, "the record to be the last one", func() (bool, error) {
		var err error
		if at, err = wal.ParseLSN(p.SQL(t, "CREATE TABLE again (n int); DROP TABLE again; SELECT pg_switch_wal()")); err != nil {
			return false, err
		}
		if err := s.WaitReplayed(within(t), at); err != nil {
			return false, err
		}
		p.Kill(t)
		var st State
		eventually(t, "all that came to be here", func() (bool, error) {
			st, err = s.State(within(t))
			return !st.Streaming, err
		})
		if st.Replayed == wal.SegmentSizeDefault.End(at) && st.Received <= st.Replayed {
			return true, nil
		}
		p.Start(t) // its background writer has had a word all the same
		return false, nil
	})
	for range 2 {
		out, err := s.Promote(within(t), at)
		if err != nil || out.Fork != wal.SegmentSizeDefault.End(at) {
			t.Fatalf("promoted at %s: %+v, %v", at, out, err)
		}
	}
}
