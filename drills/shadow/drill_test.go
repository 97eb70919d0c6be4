package shadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/drills/assert"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

const events = 300

// site is a node as far as a drill sees it: a log, and the digest of who follows it.
type site struct {
	m        *archivetest.Maker
	segments []string
	digest   tidegate.Digest // that the live service says, at at
	at       tidegate.Position
	early    struct { // what it said in the middle
		digest tidegate.Digest
		at     tidegate.Position
	}

	blind   *time.Duration
	stale   **time.Duration // what blind becomes once the drill looks at it while it runs; nil: it stays
	looks   atomic.Int64
	letIn   bool // it refuses nothing
	scratch string
	dir     string
	cfg     Config
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{m: archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), local.KindJournal), blind: new(time.Duration), dir: t.TempDir()}
	from := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(from, journal.Config{Service: "bank", Stream: "main"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }() // all of it was synced
	s.m.Lineage(t, j.Lineage(), "")
	for i := range events {
		event := []byte(strings.Repeat(fmt.Sprint(i), 20))
		at, err := j.Submit(t.Context(), event, time.Unix(int64(1000+i), 0))
		if err != nil {
			t.Fatal(err)
		}
		if s.digest, s.at = after(s.digest, event), at.Next; i == events/2 {
			s.early.digest, s.early.at = s.digest, s.at
		}
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := capture.New(vfs.OS(), from).Follow(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // only read
	for s.m.At < j.End() {
		u, err := c.Read(j.End(), 1<<10)
		if err != nil {
			t.Fatal(err)
		}
		s.m.Data(t, u.Payload, u.Records, u.Oldest, u.Newest)
		if s.m.Seq%4 == 0 {
			s.segments = append(s.segments, s.m.Segment(t))
		}
	}
	s.m.Heartbeat(t, s.m.Time)
	s.segments = append(s.segments, s.m.Segment(t))
	if s.scratch, err = os.MkdirTemp("", "tg"); err != nil { //nolint:usetesting // a socket's path has at most 108 bytes, less than t.TempDir's
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.scratch) }) // it is below the system's folder for such things
	s.cfg = s.config(t, well)
	return s
}

func (s *site) config(t *testing.T, way string) Config {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	url := "http://{address:http}"
	var pattern probe.Pattern
	if err := pattern.UnmarshalText([]byte(`(\d+) events`)); err != nil {
		t.Fatal(err)
	}
	return Config{
		Service: "bank", Standby: "node", Scratch: s.scratch, Live: []string{filepath.Join(s.dir, "live")},
		Program:    Program{Follow: []string{exe, "service", "{data}", "{run}", "{address:http}", way}, Stop: 2 * time.Second, Environment: map[string]string{"GORACE": "atexit_sleep_ms=0"}},
		Wait:       10 * time.Second,
		Objectives: Objectives{RTO: time.Minute},
		Canaries: []probe.Canary{{
			Name: "one", Write: probe.Ask{HTTP: &probe.HTTP{Method: "POST", URL: url + "/events", Body: "{canary}"}}, Read: probe.Ask{HTTP: &probe.HTTP{URL: url + "/events/{canary}", Contains: "here"}},
		}},
		Checks: []probe.Check{
			{Name: "count", Ask: probe.Ask{HTTP: &probe.HTTP{URL: url + "/count", Contains: "events"}}},
			{Name: "files", Ask: probe.Ask{Command: &probe.Command{Run: []string{"/bin/ls", "{data}"}, Contains: "journal"}}},
		},
		Records: []probe.Record{{Name: "newest", Ask: probe.Ask{Command: &probe.Command{Run: []string{"/bin/echo", fmt.Sprint(time.Now().Unix())}}}, Age: probe.Age{Within: time.Minute}}},
		Journeys: []probe.Journey{{Name: "visit", Steps: []probe.Step{
			{Ask: probe.Ask{HTTP: &probe.HTTP{URL: url + "/count"}}, Save: map[string]probe.Pattern{"count": pattern}},
			{Ask: probe.Ask{Command: &probe.Command{Run: []string{"/bin/echo", "{saved:count}"}, Contains: fmt.Sprint(events + 1)}}},
		}}},
	}.SetDefaults()
}

// Open implements [Source].
func (s *site) Open(ctx context.Context, _ string, _ func(context.Context, int) error) (*archive.Reader, error) {
	return archive.OpenReader(ctx, s.m.B)
}

// Base implements [Source].
func (*site) Base(context.Context, tidegate.StreamID, archive.Place, Room) error { return nil }

// Look implements [Source].
func (s *site) Look(context.Context) (Look, error) {
	blind := s.blind
	if s.looks.Add(1) > looksBefore && s.stale != nil {
		blind = *s.stale
	}
	return Look{archivetest.Stream: {Digest: s.digest, DigestAt: s.at, Blind: blind, Records: new(int64)}}, nil
}

// looksBefore are those of a drill before it begins.
const looksBefore = 1 + looks

// Protection implements [Source].
func (*site) Protection() evidence.Gate { return evidence.Gate{Mode: new(tidegate.ModeSync)} }

// Identity implements [Source].
func (*site) Identity() tidegate.Identity {
	return tidegate.Identity{Cluster: "c", Site: "dr", Role: tidegate.RoleDrill, Name: "d"}
}

// Provoke implements [Source].
func (s *site) Provoke(context.Context) []evidence.Check {
	c := evidence.Check{Name: "gate g: set a mode", Kind: "refusal", Outcome: evidence.CheckPassed}
	if s.letIn {
		c.Outcome, c.Why = evidence.CheckFailed, "it was not refused"
	}
	return []evidence.Check{c}
}

// drill rehearses, and makes sure that nothing is left.
func (s *site) drill(t *testing.T, ctx context.Context, backlog int64, history ...evidence.Report) (evidence.Report, judge.Verdict) {
	t.Helper()
	d := New(vfs.OS(), clock.System(), s, s.cfg, Options{Backlog: &Backlog{Records: backlog}, Limit: time.Minute, Version: "test", Host: "here"})
	d.pause = time.Millisecond
	if s.stale != nil {
		d.every = time.Millisecond
	}
	res := d.Run(ctx)
	v := res.Judge(history)
	res.Report.Format, res.Report.Version, res.Report.Number = evidence.Format, evidence.Version, 1
	left, err := os.ReadDir(s.scratch)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range left {
		if e.Name() != lockFile {
			t.Errorf("%s is left", e.Name())
		}
	}
	return res.Report, v
}

func outcomes(r *evidence.Report) string {
	var b strings.Builder
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s: %s %s\n", c.Name, c.Outcome, c.Why)
	}
	return b.String()
}

// TestDrill: a clone is fed, promoted, written to, asked, and gone; a service that takes
// three times as long to replay has become slower.
func TestDrill(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rep, v := s.drill(t, t.Context(), 150)
	if v.Outcome != judge.Passed {
		t.Fatalf("%s: %v\n%s", v.Outcome, v.Sentences(), outcomes(&rep))
	}
	if all := outcomes(&rep); !strings.Contains(all, "newest: passed") || !strings.Contains(all, "visit: passed") {
		t.Error(all)
	}
	known := map[string]bool{}
	for _, p := range rep.Phases {
		known[p.Name] = p.Took != nil
	}
	for _, name := range phaseNames {
		if known[name] != ofClone(name) {
			t.Errorf("phase %s: known %v", name, known[name])
		}
	}
	st := rep.Streams[0]
	if rep.Recovered.Actual == nil || *st.Expected != s.digest || *st.Observed != s.digest || *st.Cut != s.at || rep.Lost.Actual != nil {
		t.Errorf("%+v, %+v", rep.Recovered, st)
	}
	if n := *rep.Backlog.Records; n < 150 || n > 200 || rep.Lag.During.Samples+rep.Lag.Before.Samples == 0 || rep.Lag.After.Median == nil {
		t.Errorf("backlog %d, lag %+v", n, rep.Lag)
	}

	s.cfg = s.config(t, paced)
	if rep, v = s.drill(t, t.Context(), 150); v.Outcome != judge.Passed {
		t.Fatalf("paced: %s: %v", v.Outcome, v.Sentences())
	}
	rep.Verdict = evidence.Verdict{Outcome: evidence.Passed}
	var history []evidence.Report
	for range 4 {
		history = append(history, rep)
		history[len(history)-1].ID, _ = evidence.NewID()
	}
	s.cfg = s.config(t, slow)
	late, v := s.drill(t, t.Context(), 150, history...)
	if v.Outcome != judge.Failed || v.ExitCode != 9 || !strings.Contains(strings.Join(v.Sentences(), "\n"), "apply") {
		t.Errorf("three times as slow: %s %d, %v\n%s", v.Outcome, v.ExitCode, v.Sentences(), outcomes(&late))
	}
}

// TestBehindTheDigest: what is committed behind the place of which the live service says
// the digest is rehearsed too. A record there that a service cannot carry out is what a
// drill is for; one that it carries out is no reason to doubt the others.
func TestBehindTheDigest(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	end := s.at
	s.digest, s.at = s.early.digest, s.early.at
	for _, backlog := range []int64{10, events - 50} { // the digest lies before t0, and behind it
		rep, v := s.drill(t, t.Context(), backlog)
		if st := rep.Streams[0]; v.Outcome != judge.Passed || *st.Cut < end || st.Expected != nil || st.Observed == nil {
			t.Errorf("%s: %v, %+v", v.Outcome, v.Sentences(), st)
		}
		if c := rep.Checks[0]; c.Got == nil || *c.Got != s.digest.String() || !strings.Contains(c.Wanted, "records lie in the batches behind it") {
			t.Errorf("%+v", c)
		}
	}
	s.cfg = s.config(t, poisoned)
	if rep, v := s.drill(t, t.Context(), 10); v.Outcome != judge.Failed || !strings.Contains(outcomes(&rep), "cannot carry it out") {
		t.Errorf("poisoned: %s: %v", v.Outcome, v.Sentences())
	}
	s.cfg, s.digest = s.config(t, well), after(s.digest, nil)
	if rep, v := s.drill(t, t.Context(), 10); v.Outcome != judge.Failed || rep.Checks[0].Outcome != evidence.CheckFailed {
		t.Errorf("another state there: %s: %v", v.Outcome, v.Sentences())
	}
}

// TestNegative: what is wrong with the clone is found, and named.
func TestNegative(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)-9]++
		return b
	}
	last, middle := s.segments[len(s.segments)-2], s.segments[len(s.segments)/4]
	for _, tc := range []struct {
		name    string
		way     string
		harm    func(t *testing.T)
		mend    func(t *testing.T)
		outcome judge.Outcome
		check   string // that is not passed
		why     string
	}{
		{"corrupted segment", well, func(t *testing.T) { s.m.Change(t, last, flip) }, func(t *testing.T) {
			s.m.Change(t, last, func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-9]--; return b })
		}, judge.Failed, "prepare", filepath.Base(last)},
		{"does not start", dies, nil, nil, judge.Failed, "prepare", "no such table"},
		{"no such program", well, func(*testing.T) { s.cfg.Program.Follow[0] = "/nowhere/bank" }, nil, judge.Failed, "prepare", "/nowhere/bank"},
		{"another state", spoils, nil, nil, judge.Failed, "digest main", "another one"},
		{"not promoted", refuses, nil, nil, judge.Failed, "promote", "not today"},
		{"takes no canary", deaf, func(*testing.T) { s.cfg.Wait = time.Second }, nil, judge.Failed, "one", "503"},
		{"hangs", well, func(*testing.T) {
			s.cfg.Checks[0].HTTP, s.cfg.Checks[0].Timeout = &probe.HTTP{Method: "GET", URL: "http://{address:http}/hang", Status: 200}, 50*time.Millisecond
		}, nil, judge.Failed, "count", "no answer within 50ms"},
		{"command hangs", well, func(*testing.T) {
			s.cfg.Checks[1].Command, s.cfg.Checks[1].Timeout = &probe.Command{Run: []string{"/bin/sleep", "60"}}, 50*time.Millisecond
		}, nil, judge.Failed, "files", "no answer within 50ms"},
		{"dropped batches", well, func(t *testing.T) {
			if err := s.m.B.Remove(t.Context(), middle); err != nil {
				t.Fatal(err)
			}
		}, nil, judge.Failed, "prepare", tidegate.ErrGap.Error()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.cfg = s.config(t, tc.way)
			if tc.harm != nil {
				tc.harm(t)
			}
			rep, v := s.drill(t, t.Context(), 20)
			if tc.mend != nil {
				tc.mend(t)
			}
			found := false
			for _, c := range rep.Checks {
				found = found || c.Name == tc.check && c.Outcome == evidence.CheckFailed && strings.Contains(c.Why, tc.why)
			}
			if v.Outcome != tc.outcome || !found {
				t.Errorf("%s, want %s because %s %q\n%v\n%s", v.Outcome, tc.outcome, tc.check, tc.why, v.Sentences(), outcomes(&rep))
			}
		})
	}
}

// TestStale: a live node that is behind, or of which nothing is known any more, while the
// drill runs, calls it off; what was well before does not count for it.
func TestStale(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	five, none := new(5*time.Second), (*time.Duration)(nil)
	for name, tc := range map[string]struct {
		stale **time.Duration
		set   func(t *testing.T)
		why   string
	}{
		"behind":  {&five, func(*testing.T) { s.cfg.Harm.Blind = time.Second }, "it may lack the last 5s, and that may be at most 1s"},
		"unknown": {&none, func(*testing.T) {}, "how much it lacks is unknown"},
		"blocking": {&five, func(t *testing.T) {
			a, err := assert.Parse("blind_window < 2s")
			if err != nil {
				t.Fatal(err)
			}
			s.cfg.Blocking = []assert.Assertion{a}
		}, "blind_window < 2s does not hold: blind_window = 5s"},
	} {
		s.cfg, s.stale = s.config(t, well), tc.stale
		s.looks.Store(0)
		s.cfg.Harm.For = 20 * time.Millisecond
		s.cfg.Checks[0].HTTP = &probe.HTTP{Method: "GET", URL: "http://{address:http}/hang", Status: 200} // until it is called off
		tc.set(t)
		rep, v := s.drill(t, t.Context(), 20)
		if v.Outcome != judge.Interrupted || v.ExitCode != 5 || !strings.Contains(strings.Join(v.Sentences(), "\n"), tc.why) || rep.Lag.During.Samples == 0 {
			t.Errorf("%s: %s %d: %v", name, v.Outcome, v.ExitCode, v.Sentences())
		}
	}
}

// fullDisk has no room.
type fullDisk struct{ vfs.FS }

func (fullDisk) Free(string) (free, total uint64, err error) { return 1 << 20, 1 << 40, nil }

// TestRefused: where a drill could do harm, or cannot be made, it does not begin.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for name, tc := range map[string]struct {
		set func(t *testing.T)
		fs  vfs.FS
		why string
	}{
		"let in":        {func(*testing.T) { s.letIn = true }, vfs.OS(), "set a mode: it was not refused"},
		"behind":        {func(*testing.T) { s.blind = new(time.Hour) }, vfs.OS(), "behind already"},
		"nobody knows":  {func(*testing.T) { s.blind = nil }, vfs.OS(), "is unknown"},
		"no room":       {func(*testing.T) {}, fullDisk{vfs.OS()}, "are needed"},
		"live is ours":  {func(*testing.T) { s.cfg.Live = []string{s.dir} }, vfs.OS(), "this process can write it"},
		"within live":   {func(*testing.T) { s.cfg.Live = []string{filepath.Dir(s.scratch)} }, vfs.OS(), "lies in the live directory"},
		"a daemon's":    {func(t *testing.T) { s.plant(t, "node.json") }, vfs.OS(), "it has node.json"},
		"somebody's":    {func(t *testing.T) { s.plant(t, "drill-data") }, vfs.OS(), "which no drill has left"},
		"another drill": {func(t *testing.T) { s.occupy(t) }, vfs.OS(), "another drill runs"},
	} {
		t.Run(name, func(t *testing.T) {
			s.letIn, s.blind, s.cfg = false, new(time.Duration), s.config(t, well)
			tc.set(t)
			d := New(tc.fs, clock.System(), s, s.cfg, Options{Limit: time.Minute})
			d.pause = time.Millisecond
			res := d.Run(t.Context())
			v := res.Judge(nil)
			if v.Outcome != judge.Refused || v.ExitCode != 4 || !strings.Contains(strings.Join(v.Sentences(), "\n"), tc.why) {
				t.Errorf("%s %d: %v", v.Outcome, v.ExitCode, v.Sentences())
			}
		})
	}
}

func (s *site) plant(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join(s.scratch, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(path); err != nil { // nobody else has
			t.Error(err)
		}
	})
}

func (s *site) occupy(t *testing.T) {
	t.Helper()
	other, err := openScratch(vfs.OS(), clock.System(), s.scratch)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.close() }) // nothing is in it
}

// TestCalledOff: a drill that is called off in the middle of a check ends at once, with all
// that it has started, and its report says why.
func TestCalledOff(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.cfg = s.config(t, children)
	ctx, cancel := context.WithCancelCause(t.Context())
	fifo := filepath.Join(s.dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	s.cfg.Checks[0].HTTP = nil
	s.cfg.Checks[0].Command = &probe.Command{Run: []string{"/bin/sh", "-c", "read x < " + fifo + "; sleep 600"}}
	asked := make(chan error, 1)
	go func() { // owned by the test, which waits for it: ends when the check reads
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		cancel(errors.New("ada: month end"))
		asked <- errors.Join(err, f.Close())
	}()
	rep, v := s.drill(t, ctx, 20)
	if err := <-asked; err != nil {
		t.Error(err)
	}
	if v.Outcome != judge.Interrupted || v.ExitCode != 5 || !strings.Contains(strings.Join(rep.Verdict.Reasons, "\n"), "it was called off: ada: month end, in step checks") {
		t.Errorf("%s %d: %v\n%s", v.Outcome, v.ExitCode, v.Sentences(), outcomes(&rep))
	}
	ended, end := context.WithCancel(t.Context())
	if end(); whyOff(ended) != calledOff {
		t.Errorf("without a cause: %s", whyOff(ended))
	}
	found := false
	for _, l := range rep.LeftOvers {
		found = found || l.What == "process" && l.Removed
	}
	if !found || rep.Recovered.Actual == nil {
		t.Errorf("left over %+v, recovered %+v", rep.LeftOvers, rep.Recovered)
	}
}

// TestAfterAKill: the next drill finds what a killed one has left, processes included,
// says so, and cleans up; a process that only looks like it stays.
func TestAfterAKill(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sc, err := openScratch(vfs.OS(), clock.System(), s.scratch)
	if err != nil {
		t.Fatal(err)
	}
	box, err := sc.make(&s.cfg, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := sc.close(); err != nil {
		t.Fatal(err)
	}
	run := func(env []string) *exec.Cmd {
		cmd := exec.Command("/bin/sleep", "600")
		cmd.Env = env
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	orphan, stranger := run(box.Environment(nil)), run([]string{markName + "=" + box.mark + "0"})
	reaped := make(chan error, 1)
	go func() { reaped <- orphan.Wait() }() // owned by the test: ends with the process
	rep, v := s.drill(t, t.Context(), 20)
	if v.Outcome != judge.Passed {
		t.Errorf("%s: %v", v.Outcome, v.Sentences())
	}
	if len(rep.LeftOvers) != 2 || rep.LeftOvers[0].What != "process" || rep.LeftOvers[1].Where != box.dir || !rep.LeftOvers[1].Removed {
		t.Errorf("left over: %+v", rep.LeftOvers)
	}
	if err := <-reaped; err == nil {
		t.Error("the orphan came to its end by itself")
	}
	if err := stranger.Process.Kill(); err != nil {
		t.Errorf("the stranger: %v", err)
	}
	_ = stranger.Wait() // killed
}
