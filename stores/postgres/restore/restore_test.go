package restore_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/restore"
	"github.com/tidegate/tidegate/stores/postgres/restore/restoretest"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// source is a primary that is archived.
type source struct{ *restoretest.Source }

const segmentSize = restoretest.SegmentSize

const digestSQL = "SELECT count(*), md5(string_agg(n || s, ',' ORDER BY n)) FROM t"

// target is a home, and its restorer.
type target struct {
	home string
	fsys vfs.FS
	*restore.Restorer
	meter cold.Meter
}

func (s *source) target(t *testing.T) *target {
	t.Helper()
	to := &target{home: filepath.Join(s.Place(t), "home"), fsys: vfs.OS()}
	to.Restorer = s.restorer(t, to.fsys, to.home)
	t.Cleanup(func() {
		if err := to.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(to.home, "log", "server.log"))
			t.Logf("the restored server says:\n%s", text)
		}
	})
	return to
}

// restorer makes the restorer of a home; one in memory has no account of its own.
func (s *source) restorer(t *testing.T, fsys vfs.FS, home string) *restore.Restorer {
	t.Helper()
	return s.restorerOf(t, fsys, home, func(*restore.Config) {})
}

func (s *source) restorerOf(t *testing.T, fsys vfs.FS, home string, change func(*restore.Config)) *restore.Restorer {
	t.Helper()
	cfg := restore.Config{Home: home, BinDir: s.BinDir, Settings: map[string]string{"fsync": "off"}}
	if _, isMem := fsys.(*vfs.Mem); !s.Account.Self && !isMem {
		cfg.Account = &server.Account{UID: s.Account.UID, GID: s.Account.GID}
	}
	change(&cfg)
	r, err := restore.New(fsys, clock.System(), slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// open opens the archive as a machine does that has nothing else.
func (s *source) open(t *testing.T) (*archive.Stream, *archive.Bases) {
	t.Helper()
	r, err := archive.OpenReader(t.Context(), s.Maker.B)
	if err != nil {
		t.Fatal(err)
	}
	infos, _, err := r.Streams(t.Context())
	if err != nil || len(infos) != 1 {
		t.Fatalf("%v, %v", infos, err)
	}
	stream, err := r.Open(t.Context(), infos[0])
	if err != nil {
		t.Fatal(err)
	}
	bases, err := stream.Bases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bases.Close)
	return stream, bases
}

func (s *source) plan(t *testing.T, to cold.To) *cold.Plan { return s.planOf(t, to, s.Full) }

func (s *source) planOf(t *testing.T, to cold.To, base string) *cold.Plan {
	t.Helper()
	stream, bases := s.open(t)
	p, err := cold.Choose(t.Context(), stream, bases, cold.Choice{To: to, Base: base, NeedsBase: true})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (to *target) run(ctx context.Context, p *cold.Plan) (cold.Result, error) {
	where := cold.Target{FS: to.fsys, Clock: clock.System(), Dir: to.home}
	if _, err := p.Check(ctx, where); err != nil {
		return cold.Result{}, err
	}
	return p.Run(ctx, where, to.Restorer, &to.meter)
}

func (s *source) restore(t *testing.T, to cold.To) (*target, cold.Result) {
	t.Helper()
	tg := s.target(t)
	res, err := tg.run(t.Context(), s.plan(t, to))
	if err != nil {
		t.Fatal(err)
	}
	return tg, res
}

// ask starts the restored server, and asks it.
func (to *target) ask(t *testing.T, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := to.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return to.says(t, sql)
}

// says asks the server that runs.
func (to *target) says(t *testing.T, sql string) string {
	t.Helper()
	ctx := t.Context()
	conn, err := pgconn.Connect(ctx, to.Conninfo())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }() // only asked
	res, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var cells []string
	for _, c := range res[len(res)-1].Rows[0] {
		cells = append(cells, string(c))
	}
	return strings.Join(cells, "|")
}

// TestRestoreFromArchive rebuilds a server out of a bucket.
func TestRestoreFromArchive(t *testing.T) {
	s := &source{restoretest.New(t)}
	s.Thinly = true
	s.Base(t)
	t.Run("to many points", s.points)
	t.Run("followed", s.follows)
	t.Run("resumed", s.resumed)
	t.Run("refused", s.refused)
}

// points restores to the end, to points whose contents are known, and to random ones,
// of which the laid log is looked at.
func (s *source) points(t *testing.T) {
	type point struct {
		lsn    wal.LSN
		at     time.Time
		digest string
	}
	var known []point
	for range 3 {
		s.Work(t, 400)
		lsn, err := wal.ParseLSN(s.SQL(t, "SELECT pg_current_wal_insert_lsn()"))
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, point{lsn: lsn, digest: s.SQL(t, digestSQL)})
		s.Archive(t)
		known[len(known)-1].at = time.Unix(0, s.Events[len(s.Events)-1].Time)
	}
	final := s.SQL(t, digestSQL)

	tg, res := s.restore(t, cold.To{})
	if got := tg.ask(t, digestSQL); got != final {
		t.Errorf("latest: %s, want %s", got, final)
	}
	if got := tg.ask(t, "SELECT current_setting('archive_mode'), current_setting('synchronous_standby_names'), current_setting('listen_addresses'), pg_is_in_recovery()"); got != "off|||f" {
		t.Errorf("settings of the restored server: %s", got)
	}
	if res.Position != s.Parser.End().Position() {
		t.Errorf("latest ends at %s, want %s", wal.LSN(res.Position), s.Parser.End())
	}
	tg, res = s.restore(t, cold.To{Position: known[0].lsn.Position()})
	if got := tg.ask(t, digestSQL); got != known[0].digest || res.Position != known[0].lsn.Position() {
		t.Errorf("position %s: ended at %s with %s, want %s", known[0].lsn, wal.LSN(res.Position), got, known[0].digest)
	}
	tg, _ = s.restore(t, cold.To{Time: known[1].at})
	if got := tg.ask(t, digestSQL); got != known[1].digest {
		t.Errorf("time %s: %s, want %s", known[1].at, got, known[1].digest)
	}
	points := 17
	if text := os.Getenv("TIDEGATE_RESTORE_POINTS"); text != "" { // make test-restore
		var err error
		if points, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	s.random(t, points)
}

// random restores to random positions and looks at the log that was laid: it holds
// what lies before the position, and nothing else.
func (s *source) random(t *testing.T, n int) {
	t.Helper()
	_, bases := s.open(t)
	low := wal.LSN(bases.All[0].End)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	for range n {
		// Somewhere about a commit: in it, at its end, in what follows.
		e := s.Events[rng.IntN(len(s.Events))]
		at := max(low, e.Start-100+wal.LSN(rng.Uint64N(300)))
		// In memory, and without the files that nothing here looks at: they are what
		// a restore takes its time for.
		tg := &target{home: "/home", fsys: vfs.NewMem()}
		tg.Restorer = s.restorer(t, tg.fsys, tg.home)
		res, err := tg.run(t.Context(), s.planOf(t, cold.To{Position: at.Position()}, s.Thin))
		if err != nil {
			t.Fatal(err)
		}
		var commits int
		for _, e := range s.Events {
			if e.End <= at {
				commits++
			}
		}
		end, laid := laidLog(t, tg.fsys, s.Began, s.Line)
		// Zeros behind a switch are as good as any padding.
		ended := end == wal.LSN(res.Position) || end == segmentSize.End(wal.LSN(res.Position))
		if res.Position > at.Position() || !ended || commits != int(res.Records) || laid != commits {
			t.Errorf("position %s: ended at %s with %d commits, laid log ends at %s with %d, want %d", at, wal.LSN(res.Position), res.Records, end, laid, commits)
		}
	}
}

// laidLog parses the pg_wal that was restored to /home.
func laidLog(t *testing.T, fsys vfs.FS, from wal.LSN, line wal.Lineage) (end wal.LSN, commits int) {
	t.Helper()
	p, err := wal.NewParser(wal.Config{SegmentSize: segmentSize, System: line.System})
	if err != nil {
		t.Fatal(err)
	}
	p.Begin(from)
	for at := from; ; at += wal.LSN(segmentSize) {
		f, err := fsys.Open(filepath.Join("/home/cluster/data/pg_wal", segmentSize.FileName(line.Timeline(), at)))
		if errors.Is(err, tidegate.ErrNotFound) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil || len(text) != int(segmentSize) {
			t.Fatalf("segment at %s: %d bytes, %v", at, len(text), err)
		}
		if p.Push(at, text) != nil {
			break
		}
	}
	return p.End(), int(p.Tally().Commits)
}

// resumed ends a restore again and again in the middle, as kill -9 would, and goes on.
func (s *source) resumed(t *testing.T) {
	want := s.SQL(t, digestSQL)
	tg := s.target(t)
	plan := s.plan(t, cold.To{})
	stopped := 0
	for n := int64(500); ; n *= 3 {
		again := &target{home: tg.home, fsys: vfs.OS()}
		fault := vfs.CrashAt(n)
		again.Restorer = s.restorer(t, vfs.Inject(vfs.OS(), fault.Inject), tg.home)
		res, err := again.run(t.Context(), plan)
		if err == nil {
			if !res.Resumed || stopped == 0 || res.Bytes.Kept == 0 {
				t.Errorf("after %d stops: %+v", stopped, res)
			}
			t.Logf("stopped %d times, found %d of %d bytes", stopped, res.Bytes.Kept, res.Bytes.Total)
			break
		}
		if !errors.Is(err, vfs.ErrCrashed) {
			t.Fatal(err)
		}
		stopped++
	}
	if got := tg.ask(t, digestSQL); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// refused says no before anything is written.
func (s *source) refused(t *testing.T) {
	stream, bases := s.open(t)
	l := bases.All[0]
	for name, c := range map[string]struct {
		to   cold.To
		want error
	}{
		"before the base is consistent": {cold.To{Position: l.End - 8}, tidegate.ErrNotFound},
		"behind the end":                {cold.To{Position: s.Parser.End().Position() + 8}, tidegate.ErrNotFound},
		"tomorrow":                      {cold.To{Time: time.Now().Add(24 * time.Hour)}, tidegate.ErrNotFound},
		"before all":                    {cold.To{Time: time.Unix(0, 1)}, tidegate.ErrNotFound},
		"a batch that never was":        {cold.To{Seq: 1 << 40}, tidegate.ErrNotFound},
	} {
		if _, err := cold.Choose(t.Context(), stream, bases, cold.Choice{To: c.to, NeedsBase: true}); !errors.Is(err, c.want) || tidegate.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	plan := s.plan(t, cold.To{})
	tg := s.target(t)
	if err := os.MkdirAll(filepath.Join(tg.home, "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := tg.run(t.Context(), plan); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("not empty: %v", err)
	}
	plan.Bytes = 1 << 60
	tg = s.target(t)
	if _, err := tg.run(t.Context(), plan); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("too small: %v", err)
	}
	if _, err := os.Stat(tg.home); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
}
