package replication_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// backUp takes a backup of s into a new directory.
func backUp(t *testing.T, s *pgtest.Server, o replication.BackupOptions) (string, replication.Backup) {
	t.Helper()
	c := connect(t, config(s))
	r := &restorer{dir: t.TempDir()}
	b, err := c.BaseBackup(t.Context(), o, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Identify(t.Context()); err != nil {
		t.Errorf("the connection after a backup: %v", err)
	}
	if last := r.names[len(r.names)-1]; last != replication.ManifestName {
		t.Errorf("the last file is %s", last)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if b.Start == 0 || b.End < b.Start || b.Files < 900 || b.Bytes < 20<<20 {
		t.Errorf("%+v", b)
	}
	return r.dir, b
}

// verify runs PostgreSQL's own verification, -n: without the log.
func verify(t *testing.T, s *pgtest.Server, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(s.BinDir, "pg_verifybackup")); err != nil {
		t.Log("this version of PostgreSQL came without pg_verifybackup: verified by BaseBackup alone")
		return
	}
	open(t, dir)
	t.Log(strings.TrimSpace(s.Run(t, "pg_verifybackup", "-n", dir)))
}

// open lets the server's account read what the test wrote.
func open(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
	for up := filepath.Dir(dir); err == nil && up != os.TempDir() && len(up) > 1; up = filepath.Dir(up) {
		err = os.Chmod(up, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestBackups(t *testing.T) {
	p := pgtest.New(t, pgtest.Config{Checksums: true})
	location := p.Tablespace(t, "far")
	p.SQL(t, "CREATE TABLE away (n int, s text) TABLESPACE far; INSERT INTO away SELECT n, md5(n::text) FROM generate_series(1, 50000) n")
	p.BenchInit(t, 2)
	r := p.Replica(t, pgtest.Config{})
	bench := p.Bench(t, "-c", "2")
	for name, s := range map[string]*pgtest.Server{"primary": p, "standby": r} {
		t.Run(name, func(t *testing.T) {
			var calls int
			var last [2]int64
			dir, b := backUp(t, s, replication.BackupOptions{Label: "it's " + name, Progress: func(received, total int64) {
				if received < last[0] || total < received {
					t.Errorf("progress %d of %d after %d of %d", received, total, last[0], last[1])
				}
				calls, last = calls+1, [2]int64{received, total}
			}})
			if calls == 0 || last[0] != b.Bytes {
				t.Errorf("progress was told %d times, last %d of %d", calls, last[0], b.Bytes)
			}
			verify(t, s, dir)
			if len(b.Tablespaces) != 1 || b.Tablespaces[0].OID == 0 || name == "primary" && b.Tablespaces[0].Location != location {
				t.Errorf("tablespaces %+v", b.Tablespaces)
			}
			label, err := os.ReadFile(filepath.Join(dir, "backup_label"))
			if err != nil || !strings.Contains(string(label), "START WAL LOCATION: "+b.Start.String()) || !strings.Contains(string(label), "LABEL: it's "+name) {
				t.Errorf("backup_label: %v\n%s", err, label)
			}
			links, err := os.ReadFile(filepath.Join(dir, "tablespace_map"))
			if err != nil || !strings.HasPrefix(string(links), fmt.Sprintf("%d ", b.Tablespaces[0].OID)) {
				t.Errorf("tablespace_map: %v\n%s", err, links)
			}
			entries, err := os.ReadDir(filepath.Join(dir, "pg_wal"))
			if err != nil || len(entries) == 0 {
				t.Errorf("pg_wal: %v, %v", entries, err)
			}
			for _, e := range entries {
				if !e.IsDir() {
					t.Errorf("pg_wal has a file: %v", e)
				}
			}
			follows(t, p, dir, b)
		})
	}
	bench.Stop()
}

// follows starts a standby on the backup and waits until it has caught up.
func follows(t *testing.T, p *pgtest.Server, dir string, b replication.Backup) {
	t.Helper()
	s := pgtest.AdoptDataDir(t, "restored", pgtest.Config{}, func(data string) {
		if err := os.CopyFS(data, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		var links strings.Builder
		for _, ts := range b.Tablespaces {
			oid := fmt.Sprint(ts.OID)
			to := filepath.Join(filepath.Dir(data), "ts-"+oid)
			if err := os.Rename(filepath.Join(data, replication.TablespaceDir, oid), to); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&links, "%s %s\n", oid, to)
		}
		if err := os.WriteFile(filepath.Join(data, "tablespace_map"), []byte(links.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(data, 0o700); err != nil {
			t.Fatal(err)
		}
	})
	err := filepath.WalkDir(s.Dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, int(s.Account.UID), int(s.Account.GID)))
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Follow(t, p)
	s.Start(t)
	if got := s.SQL(t, "SELECT count(*), sum(n) FROM away"); got != "50000|1250025000" {
		t.Errorf("the tablespace's table: %s", got)
	}
	s.UntilReplayed(t, p.LSN(t))
	if c := s.Complaints(t, 0, "some data might be corrupted and you might need"); len(c) > 0 {
		t.Errorf("the restored server complains:\n%s", strings.Join(c, "\n"))
	}
}

func TestBackupsThatFail(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	s.BenchInit(t, 2)
	full := errors.New("the sink is full")
	try := func(ctx context.Context, o replication.BackupOptions, r *restorer) error {
		r.dir = t.TempDir()
		c := connect(t, config(s))
		defer c.Close()
		_, err := c.BaseBackup(ctx, o, r)
		return err
	}
	if err := try(t.Context(), replication.BackupOptions{}, &restorer{fail: full}); !errors.Is(err, full) {
		t.Errorf("a sink that fails: %v", err)
	}
	for _, o := range []replication.BackupOptions{{Label: "two\nlines"}, {RateMax: 1}, {RateMax: replication.RateMax + 1}} {
		if err := try(t.Context(), o, &restorer{}); tidegate.ClassOf(err) != tidegate.Misuse {
			t.Errorf("%+v: %v", o, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	stopped := replication.BackupOptions{RateMax: 1 << 20, Progress: func(int64, int64) { cancel(enough) }}
	if err := try(ctx, stopped, &restorer{}); !errors.Is(err, enough) || tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("stopped: %v", err)
	}
	k := newLink(t, s)
	k.cutAt = 4 << 20
	c := connect(t, k.config(s, false))
	r := &restorer{dir: t.TempDir()}
	if _, err := c.BaseBackup(t.Context(), replication.BackupOptions{}, r); err == nil || tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("a link that is cut: %v", err)
	} else {
		t.Log(err)
	}
	for _, n := range r.names {
		if n == replication.ManifestName {
			t.Error("a backup that was cut has a manifest")
		}
	}
}

func TestDamagedPage(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{Checksums: true})
	s.SQL(t, "CREATE TABLE a AS SELECT generate_series(1, 10000) n")
	file := filepath.Join(s.DataDir, s.SQL(t, "SELECT pg_relation_filepath('a')"))
	s.Stop(t, pgtest.Fast)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[8192+4000] ^= 1
	s.WriteFile(t, file, string(b), 0o600)
	s.Start(t)
	_, err = connect(t, config(s)).BaseBackup(t.Context(), replication.BackupOptions{}, &restorer{dir: t.TempDir()})
	if tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("a damaged page: %v (%s)", err, tidegate.ClassOf(err))
	}
	t.Log(err, tidegate.HintOf(err))
}

func TestPromotedDuringBackup(t *testing.T) {
	p := pgtest.New(t, pgtest.Config{})
	p.BenchInit(t, 2)
	r := p.Replica(t, pgtest.Config{})
	promoted := false
	o := replication.BackupOptions{RateMax: 10 << 20, Progress: func(received, _ int64) {
		if !promoted {
			promoted = true
			r.Promote(t)
		}
	}}
	_, err := connect(t, config(r)).BaseBackup(t.Context(), o, &restorer{dir: t.TempDir()})
	refused(t, "promoted", err, replication.ErrPromoted, tidegate.Transient)
}

func TestStoppedServerDuringBackup(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	killed := false
	o := replication.BackupOptions{RateMax: 4 << 20, Progress: func(int64, int64) {
		if !killed {
			killed = true
			s.Kill(t)
		}
	}}
	_, err := connect(t, config(s)).BaseBackup(t.Context(), o, &restorer{dir: t.TempDir()})
	if tidegate.ClassOf(err) != tidegate.Transient || !killed {
		t.Errorf("killed: %v", err)
	}
}

func TestManifestOfServer(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	dir, b := backUp(t, s, replication.BackupOptions{})
	text, err := os.ReadFile(filepath.Join(dir, replication.ManifestName))
	if err != nil {
		t.Fatal(err)
	}
	m, err := replication.ParseManifest(text)
	if err != nil || len(m.Files) != b.Files || len(m.Ranges) != 1 || m.Ranges[0] != (replication.ManifestRange{Timeline: 1, Start: b.Start, End: b.End}) {
		t.Fatalf("%d files, %+v: %v", len(m.Files), m.Ranges, err)
	}
	for i := 0; i < len(text); i += len(text)/97 + 1 {
		bad := append([]byte(nil), text...)
		bad[i] ^= 1
		if _, err := replication.ParseManifest(bad); !errors.As(err, new(*tidegate.CorruptError)) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

// TestLink: a stream over TLS and SCRAM that breaks again and again is whole.
func TestLink(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{Settings: map[string]string{"wal_keep_size": "1GB"}})
	k := newLink(t, s)
	slot := createSlot(t, s, "tide")
	s.BenchInit(t, 2)
	end := lsn(t, s.LSN(t))
	total := int64(end - slot.Restart)
	var log []byte
	cuts := 0
	for slot.Restart+wal.LSN(len(log)) < end {
		k.set(func() { k.passed, k.cutAt = 0, total/7+50_000 })
		c, err := replication.Connect(t.Context(), k.config(s, true))
		if err != nil {
			t.Fatal(err)
		}
		at := slot.Restart + wal.LSN(len(log))
		st, err := c.Start(t.Context(), replication.StartOptions{Slot: "tide", Timeline: 1, From: at})
		for err == nil && slot.Restart+wal.LSN(len(log)) < end {
			var m replication.Message
			if m, err = st.Receive(); err == nil {
				log = append(log, m.Data...)
				err = st.Status(replication.Status{Write: m.Next(), Flush: m.Next()})
			}
		}
		if err != nil {
			cuts++
			// The server learns of the cut later than we do.
			if tidegate.ClassOf(err) != tidegate.Transient {
				t.Fatalf("cut %d: %v (%s)", cuts, err, tidegate.ClassOf(err))
			}
		}
		if st != nil {
			st.Close()
		}
		c.Close()
	}
	if cuts < 5 {
		t.Errorf("the link was cut %d times", cuts)
	}
	same(t, "over a broken link", log[:total], segments(t, s, 1, wal.SegmentSizeDefault, slot.Restart, end))

	k.set(func() { k.cutAt = 0 })
	for _, tls := range []bool{false, true} {
		st := stream(t, k.config(s, tls), replication.StartOptions{Timeline: 1, From: end})
		k.set(func() { k.frozen = true })
		for {
			if _, err := st.Receive(); err != nil {
				refused(t, fmt.Sprintf("a link that is silent (tls %t)", tls), err, replication.ErrSilent, tidegate.Transient)
				if _, again := st.Receive(); !errors.Is(again, replication.ErrSilent) {
					t.Errorf("then: %v", again)
				}
				break
			}
		}
		k.set(func() { k.frozen = false })
	}
}

func TestCancelledStart(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	k := newLink(t, s)
	c := connect(t, k.config(s, false))
	ctx, cancel := context.WithCancel(t.Context())
	k.set(func() { k.frozen = true })
	cancel()
	if _, err := c.Start(ctx, replication.StartOptions{Timeline: 1, From: lsn(t, s.LSN(t))}); !errors.Is(err, context.Canceled) {
		t.Errorf("a start that was cancelled: %v", err)
	}
}
