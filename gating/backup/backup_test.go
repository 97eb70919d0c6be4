package backup_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/dir"
	"github.com/tidegate/tidegate/gating/backup"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/vfs"
)

const cluster = "demo"

// member runs a real etcd until stop is called or the test ends.
func member(t *testing.T, cfg registry.Config) (store *registry.Store, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	srv := registry.NewServer(vfs.OS(), slog.New(slog.DiscardHandler), cluster, cfg)
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }() // ended by stop
	select {
	case <-srv.Ready():
	case err := <-done:
		t.Fatalf("registry: %v", err)
	}
	store, err := registry.Open(cluster, cfg)
	if err != nil {
		t.Fatal(err)
	}
	over := false
	stop = func() {
		if over {
			return
		}
		over = true
		cancel()
		if err := errors.Join(store.Close(), <-done); err != nil {
			t.Errorf("stop registry: %v", err)
		}
	}
	t.Cleanup(stop)
	return store, stop
}

func directory(t *testing.T, root string) bucket.Bucket {
	t.Helper()
	at := filepath.Join(root, "archive")
	if err := vfs.OS().MkdirAll(at); err != nil {
		t.Fatal(err)
	}
	return dir.New(vfs.OS(), at)
}

type note struct {
	Text string `json:"text"`
}

func write(t *testing.T, s *registry.Store, text string) {
	t.Helper()
	tx := new(registry.Tx)
	tx.Put("notes/one", note{text})
	if _, err := s.Commit(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
}

// TestThereAndBack backs a real etcd up, writes on, and restores it.
func TestThereAndBack(t *testing.T) {
	root := t.TempDir()
	gate := filepath.Join(root, "gate")
	cfg := registry.Config{Dir: filepath.Join(gate, "r")}.SetDefaults()
	b := directory(t, root)
	if _, err := backup.Newest(nil, time.Now()); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("newest of none: %v", err)
	}
	store, stop := member(t, cfg)
	write(t, store, "first")
	if err := store.SaveMark(t.Context(), vfs.OS(), gate); err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 5, 11, 3, 0, 0, 0, time.UTC)
	take := func(at time.Time) backup.Backup {
		t.Helper()
		one, err := backup.Take(t.Context(), store, cluster, vfs.OS(), gate, b, at)
		if err != nil {
			t.Fatal(err)
		}
		return one
	}
	first := take(day)
	if _, err := backup.Take(t.Context(), store, cluster, vfs.OS(), gate, b, day); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("the same once more: %v", err)
	}
	write(t, store, "second")
	second := take(day.Add(time.Hour))
	list, err := backup.List(t.Context(), b, cluster)
	if err != nil || len(list) != 2 || list[0] != first || list[1] != second || second.Revision != first.Revision+1 {
		t.Fatalf("listed %+v, %v; want %+v and %+v", list, err, first, second)
	}
	if one, err := backup.Newest(list, day.Add(59*time.Minute)); err != nil || one != first {
		t.Errorf("as of before the second: %+v, %v", one, err)
	}
	if _, err := backup.Newest(list, day.Add(-time.Second)); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("as of before the first: %v", err)
	}

	path := filepath.Join(root, "fetched.db")
	if err := backup.Fetch(t.Context(), b, first, vfs.OS(), path); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.RestoreMember(vfs.OS(), cluster, cfg, gate, path, "x"); !errors.Is(err, tidegate.ErrConflict) {
		t.Fatalf("restored under a running gate: %v", err)
	}
	stop()
	aside, err := registry.RestoreMember(vfs.OS(), cluster, cfg, gate, path, "from the first")
	if err != nil {
		t.Fatal(err)
	}
	if names, err := vfs.OS().List(aside); err != nil || len(names) == 0 {
		t.Errorf("what was there lies in %q: %v, %v", aside, names, err)
	}
	store, stop = member(t, cfg)
	var got note
	if _, err := store.Get(t.Context(), "notes/one", &got); err != nil || got.Text != "first" {
		t.Errorf("restored %+v, %v", got, err)
	}
	why, err := store.Suspect(t.Context(), vfs.OS(), gate)
	if err != nil || !strings.Contains(why, "from the first") {
		t.Errorf("the gate is told %q, %v", why, err)
	}
	if err := store.SaveMark(t.Context(), vfs.OS(), gate); err != nil {
		t.Fatal(err)
	}
	if why, err := store.Suspect(t.Context(), vfs.OS(), gate); err != nil || why != "" {
		t.Errorf("once it is on record: %q, %v", why, err)
	}
	stop()

	gone, err := backup.Thin(t.Context(), b, cluster, archive.Keep{Last: 1})
	if err != nil || len(gone) != 1 || gone[0] != first {
		t.Errorf("thinned %+v, %v", gone, err)
	}
	if err := backup.Fetch(t.Context(), b, first, vfs.OS(), filepath.Join(root, "gone.db")); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("fetched what is gone: %v", err)
	}
}

// TestDamagedBackup cuts and flips one: it is named, and nothing is restored.
func TestDamagedBackup(t *testing.T) {
	root := t.TempDir()
	cfg := registry.Config{Dir: filepath.Join(root, "r")}.SetDefaults()
	b := directory(t, root)
	store, stop := member(t, cfg)
	write(t, store, "one")
	one, err := backup.Take(t.Context(), store, cluster, vfs.OS(), root, b, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	whole, _, err := bucket.ReadAll(t.Context(), b, one.Name(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	flipped := []byte(string(whole))
	flipped[len(flipped)/2] ^= 1
	for what, bytes := range map[string][]byte{"cut": whole[:len(whole)-512], "flipped": flipped, "empty": nil, "torn": whole[:len(whole)/3]} {
		bad := one
		bad.Taken = one.Taken.Add(time.Duration(len(what)) * time.Second)
		if _, err := b.Put(t.Context(), bad.Name(), strings.NewReader(string(bytes)), bucket.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, what+".db")
		if err := backup.Fetch(t.Context(), b, bad, vfs.OS(), path); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Errorf("%s: fetched, %v", what, err)
		}
		if _, err := registry.RestoreMember(vfs.OS(), cluster, cfg, root, path, ""); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Errorf("%s: restored, %v", what, err)
		}
	}
	store, _ = member(t, cfg)
	var got note
	if _, err := store.Get(t.Context(), "notes/one", &got); err != nil || got.Text != "one" {
		t.Errorf("after all that: %+v, %v", got, err)
	}
}
