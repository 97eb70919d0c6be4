package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// lineageOf asks a primary.
func lineageOf(t *testing.T, p *pgtest.Server) wal.Lineage {
	t.Helper()
	var system uint64
	if _, err := fmt.Sscan(p.SQL(t, "SELECT system_identifier FROM pg_control_system()"), &system); err != nil {
		t.Fatal(err)
	}
	tli, err := wal.ParseTimeline(p.SQL(t, "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(p.DataDir, walDir, tli.HistoryFileName()))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	h, err := wal.ParseHistory(tli, text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := wal.NewLineage(system, tli, h)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pair is an old primary and its replica, level with each other.
func pair(t *testing.T, settings map[string]string) (old, next *pgtest.Server) {
	t.Helper()
	all := map[string]string{"autovacuum": "off"} // its commits would be counted
	maps.Copy(all, settings)
	old = primary(t, all)
	old.BenchInit(t, 1)
	next = old.Replica(t, pgtest.Config{})
	next.UntilReplayed(t, old.LSN(t))
	return old, next
}

// oldHome is the configuration of the old primary as next's follower.
func oldHome(t *testing.T, old, next *pgtest.Server) Config {
	t.Helper()
	cfg := home(t, next)
	cfg.Data = old.DataDir
	return cfg
}

func TestOldPrimaryIsRewound(t *testing.T) {
	for _, how := range []string{"killed", "stopped"} {
		t.Run(how, func(t *testing.T) {
			old, next := pair(t, map[string]string{"wal_log_hints": "on"})
			next.Promote(t)
			next.SQL(t, "ALTER SYSTEM SET primary_slot_name = 'theirs'") // a rewind brings it along
			old.SQL(t, "CREATE TABLE lost (n int)")
			for range 7 {
				old.SQL(t, "INSERT INTO lost VALUES (1)")
			}
			next.SQL(t, "CREATE TABLE kept (n int)")
			load := next.Bench(t, "-c", "2", "-t", "200")
			<-load.Done()
			if how == "killed" {
				old.Kill(t)
			} else {
				old.Stop(t, pgtest.Fast)
			}
			s := open(t, oldHome(t, old, next))
			plan := RejoinPlan{Lineage: lineageOf(t, next), Source: next.Conn(), Quarantine: filepath.Join(t.TempDir(), "1-2-diverged"), About: quarantine.Summary{Service: "shop"}}
			out, err := s.Rejoin(within(t), plan)
			if err != nil {
				t.Fatal(err)
			}
			if !out.Rewound || out.Diverged == nil || out.Diverged.Commits != 8 {
				t.Fatalf("got %+v, want 8 commits rewound", out)
			}
			checkQuarantine(t, plan.Quarantine, 8)
			again, err := s.Rejoin(within(t), plan)
			if err != nil || again.Rewound {
				t.Errorf("again: %+v, %v", again, err)
			}
			follow(t, s)
			if err := s.WaitReplayed(within(t), end(t, next)); err != nil {
				t.Fatal(err)
			}
			if got, want := sql(t, s, benchDigest), next.BenchDigest(t); got != want {
				t.Error("tables differ from the new primary's")
			}
			if got := sql(t, s, "SELECT to_regclass('lost') IS NULL AND to_regclass('kept') IS NOT NULL"); got != "t" {
				t.Error("what was lost is there, or what was kept is not")
			}
			if got := sql(t, s, "SHOW primary_slot_name"); got != "" {
				t.Errorf("primary_slot_name is %q", got)
			}
		})
	}
}

// checkQuarantine reads what is kept: its log must say what its summary says.
func checkQuarantine(t *testing.T, dir string, commits uint64) {
	t.Helper()
	b, err := quarantine.Read(vfs.OS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	var d Detail
	if err := json.Unmarshal(b.Detail, &d); err != nil {
		t.Fatal(err)
	}
	if d.Log.Commits != commits || d.Lineage == d.Against || len(b.Files) < 2 || *b.Records != int64(commits) || b.Created.IsZero() || b.Service != "shop" {
		t.Errorf("summary is %+v, detail %s", b, b.Detail)
	}
	for _, f := range b.Files {
		if info, err := os.Stat(filepath.Join(dir, f.Name)); err != nil || info.Size() != f.Bytes {
			t.Errorf("%s of %d bytes: %v", f.Name, f.Bytes, err)
		}
	}
	readable(t, dir)
	// What the summary says to look with shows the transactions.
	look := strings.Fields(strings.ReplaceAll(b.Look[0], quarantine.Here, dir))
	out, err := pgtest.Find(t).Try(t, nil, look[0], look[1:]...)
	if n := strings.Count(out, "desc: COMMIT"); uint64(n) != commits || err != nil {
		t.Errorf("%q counts %d commits in quarantine, want %d: %v\n%s", look, n, commits, err, out)
	}
}

// readable lets the account read what this process has put into quarantine.
func readable(t *testing.T, dir string) {
	t.Helper()
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chmod(path, 0o755)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOldPrimaryHasNothingMore stops in good order: everything crossed.
func TestOldPrimaryHasNothingMore(t *testing.T) {
	old, next := pair(t, nil)
	old.Stop(t, pgtest.Fast)
	next.Promote(t)
	next.SQL(t, "CREATE TABLE kept (n int)")
	s := open(t, oldHome(t, old, next))
	plan := RejoinPlan{Lineage: lineageOf(t, next), Quarantine: filepath.Join(t.TempDir(), "q")}
	out, err := s.Rejoin(within(t), plan)
	if err != nil || out.Rewound || out.Diverged != nil {
		t.Fatalf("got %+v, %v", out, err)
	}
	if _, err := os.Stat(plan.Quarantine); !os.IsNotExist(err) {
		t.Errorf("quarantine: %v", err)
	}
	follow(t, s)
	if err := s.WaitReplayed(within(t), end(t, next)); err != nil {
		t.Fatal(err)
	}
	if got := sql(t, s, "SELECT to_regclass('kept') IS NOT NULL"); got != "t" {
		t.Error("does not follow")
	}
}

// TestOldPrimaryNeedsABase in every case in which a rewind cannot be, and leaves
// tables and log alone.
func TestOldPrimaryNeedsABase(t *testing.T) {
	old, next := pair(t, nil)
	next.Promote(t)
	old.SQL(t, "CREATE TABLE lost (n int)")
	old.Stop(t, pgtest.Fast)
	cfg := oldHome(t, old, next)
	s := open(t, cfg)
	plan := RejoinPlan{Lineage: lineageOf(t, next), Source: next.Conn(), Quarantine: filepath.Join(t.TempDir(), "q"), About: quarantine.Summary{Service: "shop"}}
	before, err := s.Control()
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, plan RejoinPlan) {
		t.Helper()
		_, err := s.Rejoin(within(t), plan)
		if !errors.Is(err, ErrNeedsBase) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v, want that it needs a base", name, err)
		}
	}
	try("no checksums", plan)
	checkQuarantine(t, plan.Quarantine, 1)
	without := plan
	without.Source = ""
	try("no source", without)
	stranger := plan
	stranger.Lineage.System++
	try("another system", stranger)
	if after, err := s.Control(); err != nil || after != before {
		t.Errorf("the data was changed: %+v, %v", after, err)
	}
	// A rewind that was cut off leaves data that must not be started.
	if err := s.keepConfig(); err != nil {
		t.Fatal(err)
	}
	try("cut off", plan)
	if err := s.Start(within(t), Serve); !errors.Is(err, ErrNeedsBase) {
		t.Errorf("start after a rewind that was cut off: %v", err)
	}

	// One that had gone through when this process ended is brought to its end.
	if err := durable.WriteFile(s.fsys, s.rewinding(rewindDone), nil); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Rejoin(within(t), plan); err != nil || !out.Rewound {
		t.Errorf("after a rewind that went through: %+v, %v", out, err)
	}
	half, err := s.exists(s.rewinding(""))
	if is, _, err2 := s.Restored(); err != nil || err2 != nil || half || is != Follow {
		t.Errorf("data is there to %s, half done %v: %v, %v", is, half, err, err2)
	}
}
