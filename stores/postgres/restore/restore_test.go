package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/restore"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const segmentSize = wal.SegmentSize(1 << 20)

// source is a primary that is archived.
type source struct {
	*pgtest.Server
	m      *archivetest.Maker
	line   wal.Lineage
	parser *wal.Parser
	events []wal.Event // commits archived so far
	began  wal.LSN
	batch  int    // of bytes, about
	full   string // names of the base, and of one that only looks like it
	thin   string
}

func newSource(t *testing.T) *source {
	t.Helper()
	p := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Checksums: true, Settings: map[string]string{
		"wal_keep_size": "512MB", "archive_mode": "on", "archive_command": "false", "synchronous_standby_names": "",
	}})
	s := &source{Server: p, m: archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "postgres"), batch: 300_000}
	s.m.Time = time.Now().UnixNano()
	p.SQL(t, "CREATE TABLE t (n int PRIMARY KEY, s text); INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 2000) n")
	return s
}

// base takes a base, as an agent does, and archives it; the log begins with the first.
func (s *source) base(t *testing.T) snapshot.Listed {
	t.Helper()
	ctx := t.Context()
	c, err := replication.Connect(ctx, replication.Config{Conn: s.Conn(), ApplicationName: "archive"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // only read
	_, line, err := c.Lineage(ctx)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	few := &tee{}
	info := snapshot.Info{Stream: archivetest.Stream, Generation: 1, Opened: 1, Taken: time.Now().UnixNano()}
	l := archivetest.BaseOf(t, root, info,
		func(ctx context.Context, w snapshot.Writer) (snapshot.Base, error) {
			few.Writer = w
			b, err := c.BaseBackup(ctx, replication.BackupOptions{Label: "test"}, few)
			few.base = snapshot.Base{
				Start: segmentSize.Start(b.Start).Position(), End: b.End.Position(), Lineage: line.Text(),
				Attrs: map[string]string{"setting.shared_buffers": "32MB"},
			}
			return few.base, err
		})
	s.full, s.thin = l.Name.String(), archivetest.BaseOf(t, root, info, few.again).Name.String()
	s.m.Mirror(t, root)
	if s.parser == nil {
		s.began, s.line, s.m.At = wal.LSN(l.Start), line, l.Start
		s.m.Lineage(t, line.Text(), "")
		s.parser, err = wal.NewParser(wal.Config{SegmentSize: segmentSize, System: line.System, Event: func(e wal.Event) {
			if e.Kind == wal.Commit {
				s.events = append(s.events, e)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		s.parser.Begin(s.began)
	}
	return l
}

// tee keeps the files that no restore goes without: a base of them alone is enough
// to look at the log that is laid for it.
type tee struct {
	snapshot.Writer
	base snapshot.Base
	kept map[string]*bytes.Buffer
}

type teed struct {
	io.WriteCloser
	b *bytes.Buffer
}

func (t *tee) Create(ctx context.Context, f snapshot.File) (io.WriteCloser, error) {
	w, err := t.Writer.Create(ctx, f)
	if err != nil || !slices.Contains([]string{"PG_VERSION", "backup_label", "global/pg_control"}, f.Path) {
		return w, err
	}
	if t.kept == nil {
		t.kept = map[string]*bytes.Buffer{}
	}
	t.kept[f.Path] = &bytes.Buffer{}
	return teed{w, t.kept[f.Path]}, nil
}

func (t teed) Write(b []byte) (int, error) {
	_, _ = t.b.Write(b) // a buffer never fails
	return t.WriteCloser.Write(b)
}

// again writes the base of the files that were kept.
func (t *tee) again(ctx context.Context, w snapshot.Writer) (snapshot.Base, error) {
	for path, b := range t.kept {
		to, err := w.Create(ctx, snapshot.File{Path: path, Kind: snapshot.KindFile, Mode: 0o600, Size: int64(b.Len())})
		if err != nil {
			return t.base, err
		}
		_, err = to.Write(b.Bytes())
		if err = errors.Join(err, to.Close()); err != nil {
			return t.base, err
		}
	}
	return t.base, nil
}

// archive seals the log up to now, and puts it in segments.
func (s *source) archive(t *testing.T) {
	t.Helper()
	end, err := wal.ParseLSN(s.SQL(t, "SELECT pg_switch_wal()")) // all of it flushed
	if err != nil {
		t.Fatal(err)
	}
	tli := s.line.Timeline()
	var pending []byte
	for at := s.parser.Next(); at < end; {
		file, err := os.Open(filepath.Join(s.DataDir, "pg_wal", segmentSize.FileName(tli, at)))
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, min(s.batch, int(end-at), int(segmentSize)-int(segmentSize.Offset(at))))
		_, err = file.ReadAt(buf, segmentSize.Offset(at))
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		if err := s.parser.Push(at, buf); err != nil {
			t.Fatal(err)
		}
		at += wal.LSN(len(buf))
		pending = append(pending, buf...)
		tally := s.parser.TakeTally()
		if n := int(s.parser.End().Position() - s.m.At); s.parser.End() != 0 && n > 0 {
			s.m.Data(t, pending[:n], uint32(tally.Commits), tally.Oldest, tally.Newest)
			pending = pending[n:]
			if s.m.Seq%3 == 0 {
				s.m.Segment(t)
			}
		}
	}
	s.m.Heartbeat(t, time.Now().UnixNano())
	s.m.Segment(t)
}

// work makes n transactions.
func (s *source) work(t *testing.T, n int) {
	t.Helper()
	s.SQL(t, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		UPDATE t SET s = md5(s || i::text) WHERE n = 1 + (i * 37) %% 2000; COMMIT; END LOOP; END $$`, n))
}

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
	cfg := restore.Config{Home: home, BinDir: s.BinDir, Settings: map[string]string{"fsync": "off"}}
	if _, isMem := fsys.(*vfs.Mem); !s.Account.Self && !isMem {
		cfg.Account = &server.Account{UID: s.Account.UID, GID: s.Account.GID}
	}
	r, err := restore.New(fsys, clock.System(), slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// open opens the archive as a machine does that has nothing else.
func (s *source) open(t *testing.T) (*archive.Stream, *archive.Bases) {
	t.Helper()
	r, err := archive.OpenReader(t.Context(), s.m.B)
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

func (s *source) plan(t *testing.T, to cold.To) *cold.Plan { return s.planOf(t, to, s.full) }

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
	s := newSource(t)
	s.base(t)
	t.Run("to many points", s.points)
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
		s.work(t, 400)
		lsn, err := wal.ParseLSN(s.SQL(t, "SELECT pg_current_wal_insert_lsn()"))
		if err != nil {
			t.Fatal(err)
		}
		known = append(known, point{lsn: lsn, digest: s.SQL(t, digestSQL)})
		s.archive(t)
		known[len(known)-1].at = time.Unix(0, s.events[len(s.events)-1].Time)
	}
	final := s.SQL(t, digestSQL)

	tg, res := s.restore(t, cold.To{})
	if got := tg.ask(t, digestSQL); got != final {
		t.Errorf("latest: %s, want %s", got, final)
	}
	if got := tg.ask(t, "SELECT current_setting('archive_mode'), current_setting('synchronous_standby_names'), current_setting('listen_addresses'), pg_is_in_recovery()"); got != "off|||f" {
		t.Errorf("settings of the restored server: %s", got)
	}
	if res.Position != s.parser.End().Position() {
		t.Errorf("latest ends at %s, want %s", wal.LSN(res.Position), s.parser.End())
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
		e := s.events[rng.IntN(len(s.events))]
		at := max(low, e.Start-100+wal.LSN(rng.Uint64N(300)))
		// In memory, and without the files that nothing here looks at: they are what
		// a restore takes its time for.
		tg := &target{home: "/home", fsys: vfs.NewMem()}
		tg.Restorer = s.restorer(t, tg.fsys, tg.home)
		res, err := tg.run(t.Context(), s.planOf(t, cold.To{Position: at.Position()}, s.thin))
		if err != nil {
			t.Fatal(err)
		}
		var commits int
		for _, e := range s.events {
			if e.End <= at {
				commits++
			}
		}
		end, laid := laidLog(t, tg.fsys, s.began, s.line)
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
		"behind the end":                {cold.To{Position: s.parser.End().Position() + 8}, tidegate.ErrNotFound},
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
