package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// rig is the database with both sides around it.
type rig struct {
	dir, bin, profile string
	size              int64 // of tables, bytes, about
	rounds            int
	say               func(format string, args ...any)

	lab    *pglab.Lab
	back   *pglab.BackRest
	rows   int64 // of wide, a page each
	stream string
}

// scaleBytes is what a unit of pgbench's scale takes on disk.
const scaleBytes = 15 << 20

const pageBytes = 8 << 10

// node is the one at the other site.
const node = "d1"

// theirs are pgBackRest's repositories, by how they compress.
var theirs = []string{"zst", "lz4"}

// wide has a row a page, and room for the next version of it there: what is updated
// in a row is pages in a row. Its bytes shrink to a bit more than half, pgbench's to a
// tenth.
const wide = `CREATE TABLE wide (id int PRIMARY KEY, n int NOT NULL, filler text NOT NULL) WITH (fillfactor = 45);
	ALTER TABLE wide ALTER COLUMN filler SET STORAGE PLAIN;
	INSERT INTO wide SELECT g, 0, (SELECT string_agg(md5(g || ':' || i), '') FROM generate_series(1, 94) i) FROM generate_series(1, %d) g`

// Names in the working directory.
const (
	labDir     = "lab"
	archiveDir = "archive"
	chunksDir  = "chunks"
	limitDir   = "limit"
)

func (r *rig) archive() string { return filepath.Join(r.dir, archiveDir) }

// build fills the database; nothing of Tidegate runs yet.
func (r *rig) build(ctx context.Context) (err error) {
	if err := errors.Join(os.Chmod(r.dir, 0o755), os.Mkdir(r.archive(), 0o755)); err != nil { //nolint:gosec // PostgreSQL's account passes through
		return err
	}
	scale := max(1, int(r.size/2/scaleBytes))
	r.rows = r.size / 2 / pageBytes
	r.say("filling %d MiB of tables, half pgbench's, half of a row a page", r.size>>20)
	r.lab, err = pglab.New(ctx, pglab.Config{
		Dir: filepath.Join(r.dir, labDir), Bin: r.bin, Scale: scale, NoTwin: true, Standbys: 1, Tune: r.tune,
		// What changes by itself would be measured, too.
		Settings: map[string]string{"archive_mode": "on", "autovacuum": "off", "max_wal_size": "4GB"},
	})
	if err != nil {
		return err
	}
	if r.back, err = r.lab.NewBackRest(ctx, len(theirs), fmt.Sprintf("process-max=%d", runtime.NumCPU())); err != nil {
		return err
	}
	for _, sql := range []string{fmt.Sprintf(wide, r.rows), "VACUUM (FREEZE, ANALYZE)", "CHECKPOINT"} {
		if _, err := r.lab.Primary.Query(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// tune gives the node an archive, and leaves bases to this program.
func (r *rig) tune(name string, file map[string]any) {
	if name == node+"/standby.yaml" {
		file["archive"] = map[string]any{"url": "file://" + r.archive(), "every": "10s"}
		file["base"] = map[string]any{"refresh": map[string]any{"off": true}, "trim": map[string]any{"off": true}}
	}
}

func (r *rig) close() error {
	if r.lab == nil {
		return nil
	}
	return r.lab.Close()
}

// change updates 1 % of the database's pages, each once, and brings the warm server
// there.
func (r *rig) change(ctx context.Context, kind string) error {
	n := r.size / pageBytes / 100
	where := fmt.Sprintf("id > %d AND id <= %d", r.rows/3, r.rows/3+n)
	if kind == random {
		where = fmt.Sprintf("id IN (SELECT id FROM wide ORDER BY hashint4(id), id LIMIT %d)", n)
	}
	r.say("1 %% of the pages is changed, %s", kind)
	if _, err := r.lab.Primary.Query(ctx, "UPDATE wide SET n = n + 1 WHERE "+where); err != nil {
		return err
	}
	return r.settle(ctx)
}

// settle has a checkpoint on both sides of everything that was written.
func (r *rig) settle(ctx context.Context) error {
	at, err := r.lab.Primary.Text(ctx, "CHECKPOINT; SELECT pg_switch_wal(); SELECT pg_current_wal_lsn()")
	if err != nil {
		return err
	}
	return r.lab.Until(ctx, "the warm server to replay "+at, func(ctx context.Context) error {
		got, err := r.lab.Warm(ctx, fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", at))
		if err == nil && got != "t" {
			err = errors.New("it does not yet")
		}
		return err
	})
}

// contents is what a restored server must answer as the primary does.
const contents = "SELECT (SELECT count(*) || ':' || sum(n) || ':' || sum(hashtextextended(filler, 0)) FROM wide) || ' ' || (SELECT count(*) || ':' || sum(abalance) FROM pgbench_accounts)"

// bytesBelow adds up the files below a folder.
func bytesBelow(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}
