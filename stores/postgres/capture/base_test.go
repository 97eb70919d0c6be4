package capture

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// shelf takes a base's files in memory.
type shelf struct{ files map[string]*bytes.Buffer }

func (s *shelf) Create(_ context.Context, f snapshot.File) (io.WriteCloser, error) {
	b := &bytes.Buffer{}
	s.files[f.Path] = b
	return nopCloser{b}, nil
}

func (s *shelf) Add(snapshot.File) error { return nil }

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func TestBaseGoesWithTheLogThatIsKept(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.BenchInit(t, 1)
	s.active()
	begin, err := s.c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sh := &shelf{files: map[string]*bytes.Buffer{}}
	var total int64
	b, err := s.c.Base(t.Context(), sh, func(n int64) { total = n })
	if err != nil {
		t.Fatal(err)
	}
	if b.Start < begin || b.End <= b.Start || wal.SegmentSizeDefault.Start(wal.LSN(b.Start)) != wal.LSN(b.Start) || total == 0 {
		t.Errorf("base [%s, %s) of %d bytes; the log begins at %s", b.Start, b.End, total, begin)
	}
	if b.Lineage == "" || string(b.Lineage) != s.c.Status().Lineage {
		t.Errorf("lineage %q", b.Lineage)
	}
	if b.Attrs["setting.max_connections"] != "50" || !strings.HasPrefix(b.Attrs["server_version"], "1") {
		t.Errorf("attributes %v", b.Attrs)
	}
	label := sh.files["backup_label"]
	if label == nil || !strings.Contains(label.String(), "tidegate shop/main") || sh.files["global/pg_control"] == nil {
		t.Error("the files are not those of a base backup")
	}
	// What it needs is there to be read.
	s.read(t, wal.LSN(b.Start), s.caughtUp().Head, 1<<20)
}
