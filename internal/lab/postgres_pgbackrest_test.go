//go:build pgbackrest

package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// A node's store is filled from a pgBackRest backup, full and incremental, compressed
// and bundled, with a tablespace, by the commands of docs/operating/bases.md: of the
// base that the agent takes then only what has changed since the backup crosses.
func TestPgBackRestSeedsABase(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "tidegate-br-") //nolint:usetesting // PostgreSQL's account must be able to enter it
	if err != nil {
		t.Fatal(err)
	}
	l, err := pglab.New(t.Context(), pglab.Config{
		Dir: dir, Bin: binaries, Scale: 10, NoTwin: true, Settings: map[string]string{"archive_mode": "on"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("logs are left in %s\n%s", dir, lab.Tails(dir, 30))
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b := newBackRest(t, l)
	b.sql(t, "CREATE TABLESPACE fast LOCATION '"+b.dir(t, "fast")+"'")
	b.sql(t, "CREATE TABLE wide TABLESPACE fast AS SELECT g AS id, repeat(md5(g::text), 8) AS filler FROM generate_series(1, 200000) g")
	b.run(t, "backup", "--type=full")
	b.bench(t, "2000")
	b.run(t, "backup", "--type=incr")
	b.bench(t, "500")
	copied := b.dir(t, "copy")
	b.run(t, "restore", "--pg1-path="+copied, "--tablespace-map-all="+filepath.Join(b.lab.Primary.Dir, "copy-spaces"))

	s := &stage{Lab: l.Lab, dir: dir}
	var seeded seedResult
	s.within(t, func(ctx context.Context) error {
		return l.Up(ctx, func(text string) {
			if strings.HasSuffix(text, "agents") { // the nodes know of the stream, and nobody pushes a base yet
				seeded = b.seed(ctx, t, copied)
			}
		})
	})
	if seeded.Files == 0 {
		t.Fatal("nothing was seeded")
	}
	if n, err := l.Warm(t.Context(), "SELECT count(*) FROM wide"); err != nil || n != "200000" {
		t.Errorf("%s rows in the tablespace: %v", n, err)
	}
	got := b.taken(t)
	t.Logf("backup: %d files of %d bytes, %d new, stored in %d; base: %d bytes, %d new, %d crossed",
		seeded.Files, seeded.Bytes, seeded.New, seeded.Stored, got.Bytes, got.New, got.Crossed)
	// pgbench has touched 1,000 pages of 8 KiB since the backup, in one of 240 MB.
	if got.Bytes < seeded.Bytes/2 || got.New > got.Bytes/5 {
		t.Errorf("of a base of %d bytes %d were new", got.Bytes, got.New)
	}
}

// taken is what the first node has logged of the base that the agent put there: the
// first member is what an agent ships to.
func (b *backRest) taken(t *testing.T) (got struct {
	Msg, Peer           string
	Bytes, New, Crossed int64
},
) {
	t.Helper()
	text, err := os.ReadFile(b.lab.File("logs", "standby-"+b.lab.Standbys()[0]+".log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range bytes.Split(text, []byte("\n")) {
		if json.Unmarshal(line, &got) == nil && got.Msg == "base session ended" && got.Peer == b.lab.Primaries()[0] {
			return got
		}
	}
	t.Fatalf("no base was taken by %s", b.lab.Standbys()[0])
	return got
}

// seedResult is what `tidegate standby seed -o json` prints.
type seedResult struct {
	Files              int
	Bytes, New, Stored int64
}

// backRest is pgBackRest in a test.
type backRest struct {
	*pglab.BackRest
	lab *pglab.Lab
}

func newBackRest(t *testing.T, l *pglab.Lab) *backRest {
	t.Helper()
	b, err := l.NewBackRest(t.Context(), 1, "compress-type=zst")
	if err != nil {
		t.Fatal(err)
	}
	return &backRest{b, l}
}

// dir makes a directory of the account's; it goes with the server.
func (b *backRest) dir(t *testing.T, name string) string {
	t.Helper()
	dir, err := b.lab.AccountDir(name)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (b *backRest) sql(t *testing.T, sql string) {
	t.Helper()
	if _, err := b.lab.Primary.Query(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// bench runs so many transactions in each of two sessions.
func (b *backRest) bench(t *testing.T, n string) {
	t.Helper()
	if _, err := b.lab.Primary.Tool("pgbench", "-n", "-c", "2", "-t", n); err != nil {
		t.Fatal(err)
	}
}

func (b *backRest) run(t *testing.T, command string, args ...string) {
	t.Helper()
	out, err := b.Run(t.Context(), command, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("pgbackrest %s: %s", command, out)
}

// seed fills the store of the first node as soon as it knows of the stream: the
// others have the base from there.
func (b *backRest) seed(ctx context.Context, t *testing.T, from string) (got seedResult) {
	t.Helper()
	node := b.lab.Standbys()[0]
	var id string
	err := b.lab.Until(ctx, node+" to be told of the stream", func(context.Context) error {
		found, err := filepath.Glob(filepath.Join(b.lab.StandbyDir(node), "streams", "*", "base"))
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("%d stores of bases", len(found))
		}
		if err == nil {
			id = filepath.Base(filepath.Dir(found[0]))
		}
		return err
	})
	var out []byte
	if err == nil {
		out, err = b.lab.Command(ctx, b.lab.Bin("tidegate"), "standby", "seed", "--config", b.lab.File(node, "standby.yaml"), "--from", from, "-o", "json", id)
	}
	if err == nil {
		err = json.Unmarshal(out, &got)
	}
	if err != nil {
		t.Errorf("seed %s: %v", node, err)
	}
	return got
}
