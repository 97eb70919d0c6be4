package restoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tidegate/tidegate/archive/archivetest"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// SegmentSize is that of the primary's log.
const SegmentSize = wal.SegmentSize(1 << 20)

// Source is a primary that is archived.
type Source struct {
	*pgtest.Server

	Maker      *archivetest.Maker
	Line       wal.Lineage
	Parser     *wal.Parser // of what is archived
	Events     []wal.Event // commits archived so far
	Began      wal.LSN     // where the archived log begins
	BatchBytes int         // about
	Thinly     bool        // Base makes a second one
	Full       string      // name of the base
	Thin       string      // of one that only looks like it, of the few files that no restore goes without
}

// New makes a primary with a table t of 2,000 rows, and an empty archive.
func New(t testing.TB) *Source {
	t.Helper()
	p := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Checksums: true, Settings: map[string]string{
		"wal_keep_size": "512MB", "archive_mode": "on", "archive_command": "false", "synchronous_standby_names": "",
	}})
	s := &Source{Server: p, Maker: archivetest.New(t, dir.New(vfs.OS(), t.TempDir()), "postgres"), BatchBytes: 300_000}
	s.Maker.Time = time.Now().UnixNano()
	p.SQL(t, "CREATE TABLE t (n int PRIMARY KEY, s text); INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 2000) n")
	return s
}

// Base takes a base, as an agent does, and archives it; the log begins with the first.
func (s *Source) Base(t testing.TB) snapshot.Listed {
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
				Start: SegmentSize.Start(b.Start).Position(), End: b.End.Position(), Lineage: line.Text(),
				Attrs: map[string]string{"setting.shared_buffers": "32MB"},
			}
			return few.base, err
		})
	if s.Full = l.Name.String(); s.Thinly {
		s.Thin = archivetest.BaseOf(t, root, info, few.again).Name.String()
	}
	s.Maker.Mirror(t, root)
	if s.Parser == nil {
		s.Began, s.Line, s.Maker.At = wal.LSN(l.Start), line, l.Start
		s.Maker.Lineage(t, line.Text(), "")
		s.Parser, err = wal.NewParser(wal.Config{SegmentSize: SegmentSize, System: line.System, Event: func(e wal.Event) {
			if e.Kind == wal.Commit {
				s.Events = append(s.Events, e)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		s.Parser.Begin(s.Began)
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

// Archive seals the log up to now, and puts it in segments.
func (s *Source) Archive(t testing.TB) {
	t.Helper()
	end, err := wal.ParseLSN(s.SQL(t, "SELECT pg_switch_wal()")) // all of it flushed
	if err != nil {
		t.Fatal(err)
	}
	tli := s.Line.Timeline()
	var pending []byte
	for at := s.Parser.Next(); at < end; {
		file, err := os.Open(filepath.Join(s.DataDir, "pg_wal", SegmentSize.FileName(tli, at)))
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, min(s.BatchBytes, int(end-at), int(SegmentSize)-int(SegmentSize.Offset(at))))
		_, err = file.ReadAt(buf, SegmentSize.Offset(at))
		if err = errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		if err := s.Parser.Push(at, buf); err != nil {
			t.Fatal(err)
		}
		at += wal.LSN(len(buf))
		pending = append(pending, buf...)
		tally := s.Parser.TakeTally()
		if n := int(s.Parser.End().Position() - s.Maker.At); s.Parser.End() != 0 && n > 0 {
			s.Maker.Data(t, pending[:n], uint32(tally.Commits), tally.Oldest, tally.Newest)
			pending = pending[n:]
			if s.Maker.Seq%3 == 0 {
				s.Maker.Segment(t)
			}
		}
	}
	s.Maker.Heartbeat(t, time.Now().UnixNano())
	s.Maker.Segment(t)
}

// Work makes n transactions.
func (s *Source) Work(t testing.TB, n int) {
	t.Helper()
	s.SQL(t, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..%d LOOP
		UPDATE t SET s = md5(s || i::text) WHERE n = 1 + (i * 37) %% 2000; COMMIT; END LOOP; END $$`, n))
}
