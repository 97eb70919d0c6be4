package shadow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/procgroup"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/restore/restoretest"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const tableDigest = "SELECT md5(string_agg(n || s, ',' ORDER BY n)) FROM t"

// pgSite is a node that has the base and log of a PostgreSQL cluster.
type pgSite struct {
	site

	primary *restoretest.Source
	cold    string // file of a table that no replay touches
	away    bool   // it gives nothing more
}

func newPGSite(t *testing.T) *pgSite {
	t.Helper()
	p := restoretest.New(t)
	s := &pgSite{primary: p, site: site{m: p.Maker, blind: new(time.Duration), dir: t.TempDir(), scratch: p.Place(t)}}
	p.SQL(t, "CREATE TABLE cold AS SELECT generate_series(1, 1000) n; CREATE TABLE canaries (id text); CREATE SUBSCRIPTION live CONNECTION 'host=live' PUBLICATION x WITH (connect = false)")
	s.cold = p.SQL(t, "SELECT pg_relation_filepath('cold')")
	p.Base(t)
	p.Work(t, 3000)
	p.Archive(t)
	s.cfg = s.config(t)
	return s
}

func (s *pgSite) config(*testing.T) Config {
	const where = "host={run} user=postgres dbname=postgres"
	account := ""
	if !s.primary.Account.Self {
		account = "postgres"
	}
	return Config{
		Service: "bank", Standby: "node", Scratch: s.scratch, Live: []string{filepath.Join(s.dir, "live")},
		Postgres: &Postgres{BinDir: s.primary.BinDir, Account: account, Amcheck: new(time.Duration), Settings: map[string]string{"fsync": "off"}},
		Wait:     time.Minute,
		Canaries: []probe.Canary{{
			Name: "one", Write: probe.Ask{SQL: &probe.SQL{Where: where, Query: "INSERT INTO canaries VALUES ('{canary}')"}},
			Read: probe.Ask{SQL: &probe.SQL{Where: where, Query: "SELECT id FROM canaries", Want: "{canary}"}},
		}},
		Checks: []probe.Check{{Name: "content", Ask: probe.Ask{SQL: &probe.SQL{Where: where, Query: tableDigest}}}},
	}.SetDefaults()
}

// Open implements [Source].
func (s *pgSite) Open(ctx context.Context, _ string, _ func(context.Context, int) error) (*archive.Reader, error) {
	return archive.OpenReader(ctx, leaving{s.m.B, &s.away})
}

var errAway = &tidegate.Error{Op: "read log", Class: tidegate.Transient, Err: errors.New("the node has gone away")}

// leaving is a bucket that goes away.
type leaving struct {
	bucket.Bucket
	away *bool
}

func (l leaving) Get(ctx context.Context, name string, off, n int64) (r io.ReadCloser, err error) {
	if *l.away {
		return nil, errAway
	}
	return l.Bucket.Get(ctx, name, off, n)
}

// rehearse runs a drill, and makes sure that nothing is left of it.
func (s *pgSite) rehearse(t *testing.T, fsys vfs.FS, begins func(Step)) (evidence.Report, judge.Verdict) {
	t.Helper()
	d := New(fsys, clock.System(), s, s.cfg, Options{Backlog: &Backlog{Bytes: 1 << 20}, Limit: time.Minute})
	d.pause, d.begins = time.Millisecond, begins
	res := d.Run(t.Context())
	s.away = false
	v := res.Judge(nil)
	left, err := os.ReadDir(s.scratch)
	if err != nil || len(left) > 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	return res.Report, v
}

// data is the directory of the clone's data.
func (s *pgSite) data(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(s.scratch, sandboxPrefix+"*", dataName, "cluster", "data"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	return found[0]
}

// TestCluster rehearses with a real PostgreSQL server.
func TestCluster(t *testing.T) {
	t.Parallel()
	s := newPGSite(t)
	t.Run("after a kill", s.afterAKill)
	t.Run("faults", s.faults)
	t.Run("refused", s.refused)
}

// afterAKill leaves a running server as a drill that was killed does: the next one ends it,
// and passes.
func (s *pgSite) afterAKill(t *testing.T) {
	sc, err := openScratch(vfs.OS(), clock.System(), s.scratch)
	if err != nil {
		t.Fatal(err)
	}
	box, err := sc.make(&s.cfg, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Postgres.Amcheck = new(time.Minute)
	d := New(vfs.OS(), clock.System(), s, s.cfg, Options{Backlog: &Backlog{Bytes: 1 << 20}})
	reader, err := s.Open(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	killed, err := newTwin(t.Context(), ground{d: d, box: box, space: spaceOf(vfs.OS(), s.scratch, nil), reader: reader, look: Look{}, left: Backlog{Bytes: 1 << 20}, chosen: func() {}})
	if err == nil {
		t.Cleanup(func() { _ = killed.stop() }) // unless the next drill has
		err = killed.begin(t.Context())
		killed.close()
	}
	if err != nil {
		t.Fatal(err)
	}
	pids, err := procgroup.Find(inhabits(box.dir, box.mark))
	replays := startup(t, s.data(t)) // which has written its title over its environment
	score, scoreErr := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", replays))
	if err := errors.Join(err, scoreErr); err != nil || !slices.Contains(pids, replays) || string(score) != "1000\n" {
		t.Errorf("processes of the sandbox: %v without %d, score %q, %v", pids, replays, score, err)
	}
	s.interrupted(t, killed.(*cluster))
	if err := sc.close(); err != nil {
		t.Fatal(err)
	}

	s.cfg.Checks[0].SQL.Want = s.primary.SQL(t, tableDigest)
	rep, v := s.rehearse(t, vfs.OS(), func(Step) {})
	if v.Outcome != judge.Passed {
		t.Fatalf("%s: %v\n%s", v.Outcome, v.Sentences(), outcomes(&rep))
	}
	if len(rep.LeftOvers) < 2 || !strings.HasPrefix(rep.LeftOvers[0].Where, "server of "+box.dir) || !rep.LeftOvers[0].Removed {
		t.Errorf("left over: %+v", rep.LeftOvers)
	}
	for _, name := range []string{"cut main", "pg_amcheck", "data checksums", "one", "one read back", "content"} {
		if !strings.Contains(outcomes(&rep), name+": passed") {
			t.Errorf("%s in\n%s", name, outcomes(&rep))
		}
	}
	sealed := 0
	for _, c := range rep.Isolation {
		if (strings.HasPrefix(c.Name, "server's ") || strings.HasPrefix(c.Name, "sessions' ")) && c.Outcome == evidence.CheckPassed {
			sealed++
		}
		if c.Name == "server's memory" && !strings.Contains(*c.Got, "huge_pages off") {
			t.Errorf("%s: %s", c.Name, *c.Got)
		}
	}
	st := rep.Streams[0]
	if end := s.primary.Parser.End().Position(); sealed != 4 || rep.Recovered.Actual == nil || *st.Cut != end || *rep.Backlog.Bytes < 1<<20 || *rep.Backlog.ChosenBytes != 1<<20 {
		t.Errorf("sealed %d, %+v, cut %s of %s, backlog %d", sealed, rep.Recovered, *st.Cut, end, *rep.Backlog.Bytes)
	}
}

// interrupted goes through the course with a server that is about to be left.
func (s *pgSite) interrupted(t *testing.T, c *cluster) {
	// A setting that the base may decide would be found.
	if open, err := sealedIn(t.Context(), c.server, c.box, map[string]string{"work_mem": ""}); err != nil || open[0].Outcome != evidence.CheckFailed {
		t.Errorf("a setting of the base's: %+v, %v", open, err)
	}
	s.away = true
	if err := c.catchUp(t.Context()); !errors.Is(err, errAway) || c.cut != nil {
		t.Errorf("the node is away: %v, cut %v", err, c.cut)
	}
	s.away = false
	if err := errors.Join(c.catchUp(t.Context()), c.apply(t.Context())); err != nil {
		t.Fatal(err)
	}
	pid := startup(t, s.data(t))
	send(t, pid, syscall.SIGSTOP)
	hung, give := context.WithCancel(t.Context())
	defer give()
	promoted := make(chan error, 1)
	go func() { promoted <- c.promote(hung) }() // owned by the test, which waits for it: ends with hung
	await(t, "the promotion to be asked for", func() bool {
		_, err := os.Stat(filepath.Join(s.data(t), "promote"))
		return err == nil
	})
	give()
	err := <-promoted
	send(t, pid, syscall.SIGCONT)
	if !errors.Is(err, context.Canceled) || c.content(true)[0].Outcome != evidence.CheckUnknown {
		t.Errorf("a promotion that hangs: %v", err)
	}
	await(t, "the promotion to go on", func() bool {
		st, err := c.server.State(t.Context())
		return err == nil && !st.Recovery
	})
	if err := c.promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := query(t.Context(), c.server, "create role app; alter role app set session_preload_libraries = 'x'"); err != nil {
		t.Fatal(err)
	}
	if got, err := sessionsOf(t.Context(), c.server); err != nil || got.Outcome != evidence.CheckUnknown || !strings.Contains(*got.Got, "of app in all databases: session_preload_libraries=x") {
		t.Errorf("a role's own libraries: %+v, %v", got, err)
	}
	ask := probe.New(clock.System(), c.box, nil)
	defer ask.Close()
	spoil(t, filepath.Join(s.data(t), s.cold))
	got := c.examine(t.Context(), ask)
	if len(got) != 2 || got[0].Outcome != evidence.CheckFailed || !strings.Contains(got[0].Why, "invalid page") || got[1].Outcome != evidence.CheckFailed {
		t.Errorf("a damaged page: %+v", got)
	}
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(until) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// startup is the process of a server that replays.
func startup(t *testing.T, data string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	master, _, _ := strings.Cut(string(text), "\n")
	children, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%s/children", master, master))
	if err != nil {
		t.Fatal(err)
	}
	for child := range strings.FieldsSeq(string(children)) {
		if cmd, err := os.ReadFile("/proc/" + child + "/cmdline"); err == nil && strings.Contains(string(cmd), "startup") {
			var pid int
			if _, err := fmt.Sscan(child, &pid); err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("nobody of %s replays", children)
	return 0
}

// faults are found, and named.
func (s *pgSite) faults(t *testing.T) {
	flip := func(by int) func([]byte) []byte {
		return func(b []byte) []byte {
			b = append([]byte(nil), b...)
			b[len(b)-2000] += byte(by)
			return b
		}
	}
	var last string
	for o, err := range s.m.B.List(t.Context(), archive.StreamPrefix(s.m.Info.Stream), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e, err := archive.Parse(o.Name); err == nil && e.Kind == archive.KindSegment && o.Size > 3000 {
			last = o.Name
		}
	}
	for _, tc := range []struct {
		name   string
		set    func(t *testing.T)
		begins func(t *testing.T, step Step)
		mend   func(t *testing.T)
		check  string
		why    string
	}{
		{"does not start", func(*testing.T) { s.cfg.Postgres.Settings["shared_buffers"] = "much" }, nil, nil, "prepare", "shared_buffers"},
		{"damaged log", func(t *testing.T) { s.m.Change(t, last, flip(1)) }, nil, func(t *testing.T) { s.m.Change(t, last, flip(-1)) }, "prepare", filepath.Base(last)},
		{"server is killed", nil, func(t *testing.T, step Step) {
			if step == Promote {
				send(t, startup(t, s.data(t)), syscall.SIGKILL)
			}
		}, nil, "promote", "server ended"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.cfg = s.config(t)
			if tc.set != nil {
				tc.set(t)
			}
			rep, v := s.rehearse(t, vfs.OS(), func(step Step) {
				if tc.begins != nil {
					tc.begins(t, step)
				}
			})
			if tc.mend != nil {
				tc.mend(t)
			}
			found := false
			for _, c := range rep.Checks {
				found = found || c.Name == tc.check && c.Outcome == evidence.CheckFailed && strings.Contains(c.Why, tc.why)
			}
			if v.Outcome != judge.Failed || !found {
				t.Errorf("%s, want failed because %s %q\n%v\n%s", v.Outcome, tc.check, tc.why, v.Sentences(), outcomes(&rep))
			}
		})
	}
}

func send(t *testing.T, pid int, sig syscall.Signal) {
	if err := syscall.Kill(pid, sig); err != nil {
		t.Error(err)
	}
}

// spoil changes bytes in a page.
func spoil(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("spoilt"), 4000)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// tightDisk has room for a drill, and none for this clone.
type tightDisk struct{ vfs.FS }

func (tightDisk) Free(string) (free, total uint64, err error) { return 90 << 20, 1 << 40, nil }

// refused does not begin, or not go on.
func (s *pgSite) refused(t *testing.T) {
	for name, tc := range map[string]struct {
		set func()
		fs  vfs.FS
		why string
	}{
		"no room":      {func() {}, tightDisk{vfs.OS()}, "are needed"},
		"no memory":    {func() { s.cfg.Postgres.Settings["shared_buffers"] = "900TB" }, vfs.OS(), "MiB of memory are available"},
		"no such kind": {func() { s.cfg.Postgres = nil }, vfs.OS(), "its store is postgres"},
	} {
		t.Run(name, func(t *testing.T) {
			s.cfg = s.config(t)
			tc.set()
			_, v := s.rehearse(t, tc.fs, func(Step) {})
			if v.Outcome != judge.Refused || v.ExitCode != 4 || !strings.Contains(strings.Join(v.Sentences(), "\n"), tc.why) {
				t.Errorf("%s %d: %v", v.Outcome, v.ExitCode, v.Sentences())
			}
		})
	}
}

// TestContentOfACluster: what a server replayed is compared with the log.
func TestContentOfACluster(t *testing.T) {
	at := time.Unix(1000, 0)
	for name, tc := range map[string]struct {
		change func(*cluster)
		want   evidence.CheckOutcome
	}{
		"all of it":             {func(*cluster) {}, evidence.CheckPassed},
		"in padding":            {func(c *cluster) { c.replayed.Replayed, c.promoted.Fork = 0x900, 0x900 }, evidence.CheckPassed},
		"no transaction":        {func(c *cluster) { c.replayed.LastCommit, c.logged = time.Time{}, time.Time{} }, evidence.CheckPassed},
		"another transaction":   {func(c *cluster) { c.replayed.LastCommit = at.Add(-time.Microsecond) }, evidence.CheckFailed},
		"nobody says which":     {func(c *cluster) { c.replayed.LastCommit = time.Time{} }, evidence.CheckUnknown},
		"one that is not there": {func(c *cluster) { c.logged = time.Time{} }, evidence.CheckFailed},
		"less":                  {func(c *cluster) { c.replayed.Replayed = 0x7f8 }, evidence.CheckFailed},
		"promoted before it":    {func(c *cluster) { c.promoted.Fork = 0x7f8 }, evidence.CheckFailed},
		"not promoted":          {func(c *cluster) { c.promoted = nil }, evidence.CheckUnknown},
		"not replayed":          {func(c *cluster) { c.replayed = nil }, evidence.CheckUnknown},
	} {
		c := &cluster{
			ground: ground{infos: []archive.StreamInfo{{Name: "main"}}}, cut: new(wal.LSN(0x800)), logged: at,
			replayed: &server.State{Replayed: 0x800, LastCommit: at}, promoted: &server.Promotion{Timeline: 2, Fork: 0x800},
		}
		tc.change(c)
		if got := c.content(true)[0]; got.Outcome != tc.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestUnknownBacklog: what the live standby does not say is no backlog of 0.
func TestUnknownBacklog(t *testing.T) {
	known := Look{archivetest.Stream: {Records: new(int64(7)), Bytes: new(int64(9))}}
	for name, tc := range map[string]struct {
		pg     *Postgres
		chosen *Backlog
		look   Look
		want   Backlog
		known  bool
	}{
		"records":           {nil, nil, known, Backlog{Records: 7}, true},
		"bytes":             {&Postgres{}, nil, known, Backlog{Bytes: 9}, true},
		"chosen":            {&Postgres{}, &Backlog{Bytes: 5}, Look{}, Backlog{Bytes: 5}, true},
		"nobody says":       {nil, nil, Look{}, Backlog{}, false},
		"records unknown":   {nil, nil, Look{archivetest.Stream: {Bytes: new(int64)}}, Backlog{}, false},
		"bytes unknown":     {&Postgres{}, nil, Look{archivetest.Stream: {Records: new(int64)}}, Backlog{}, false},
		"of one not known":  {nil, nil, Look{archivetest.Stream: {}, tidegate.NewID(): {Records: new(int64)}}, Backlog{}, false},
		"nothing is behind": {nil, nil, Look{archivetest.Stream: {Records: new(int64)}}, Backlog{}, true},
	} {
		d := &Drill{cfg: Config{Postgres: tc.pg}, opts: Options{Backlog: tc.chosen}}
		got, err := d.left(tc.look)
		if got != tc.want || (err == nil) != tc.known || err != nil && (tidegate.ClassOf(err) != tidegate.Refused || !strings.Contains(err.Error(), "unknown")) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestSmall: a clone takes little of a machine that the live standby is on.
func TestSmall(t *testing.T) {
	pg := Postgres{Settings: map[string]string{"work_mem": "1GB", preload: "x"}}
	if got := pg.settings(); got["shared_buffers"] != "128MB" || got["work_mem"] != "1GB" || got[preload] != "" || smallSettings["work_mem"] != "4MB" {
		t.Errorf("settings %v", got)
	}
	const meminfo = "MemTotal:  9 kB\nMemAvailable:     262144 kB\n"
	for value, want := range map[string]bool{
		"256MB": true, "257MB": false, "32768": true, "32769": false, "1GB": false, "262144kB": true, "99999999999999999999TB": false, "17179869184GB": false, "much": true, "64 MB": true,
	} {
		if err := fits(value, meminfo); (err == nil) != want {
			t.Errorf("%s: %v", value, err)
		}
	}
	if err := fits("1MB", "MemTotal: 9 kB"); err == nil {
		t.Error("nobody says how much is available")
	}
}

// TestWorkers: a library that runs jobs by itself is not let into a clone.
func TestWorkers(t *testing.T) {
	for value, want := range map[string]string{
		"timescaledb, pg_stat_statements": "", "": "", "pg_stat_statements, pg_cron": "pg_cron", `"$libdir/pglogical.so",'bdr'`: "pglogical and bdr",
	} {
		err := (&Postgres{Amcheck: new(time.Duration), Settings: map[string]string{preload: value}}).validate()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), "without "+want+":") {
			t.Errorf("%q: %v", value, err)
		}
	}
}
