package server

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

const patience = 2 * time.Minute

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// primary starts a primary that a node's server may follow without a password,
// by the role that primary_conninfo names.
func primary(t *testing.T, settings map[string]string) *pgtest.Server {
	t.Helper()
	p := pgtest.New(t, pgtest.Config{Settings: settings})
	p.SQL(t, "CREATE ROLE tidegate LOGIN REPLICATION")
	return p
}

// home returns the configuration of a node's server beside p, for which p stands
// in as the upstream.
func home(t *testing.T, p *pgtest.Server) Config {
	t.Helper()
	cfg := Config{
		Home: filepath.Join(p.Place(t), "home"), BinDir: p.BinDir, StopTimeout: 10 * time.Second,
		Upstream: Upstream{SocketDir: p.SocketDir, Port: pgtest.Port},
		Settings: map[string]string{"fsync": "off", "shared_buffers": "32MB"},
	}
	if !p.Account.Self {
		cfg.Account = &Account{UID: p.Account.UID, GID: p.Account.GID}
	}
	return cfg
}

// open makes the server of cfg, which is stopped when the test ends.
func open(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := New(vfs.OS(), clock.System(), slog.New(slog.NewTextHandler(t.Output(), nil)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Stop(ctx, StopImmediate); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(s.LogPath())
			t.Logf("the node's server says:\n%s", text[max(0, len(text)-8000):])
		}
	})
	return s
}

// takeBase has a base of p in a directory, its tablespaces within.
func takeBase(t *testing.T, p *pgtest.Server) string {
	t.Helper()
	dir := filepath.Join(p.Place(t), "base")
	if err := p.Backup(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// restore restores a base, without the paths that leave is given.
func restore(t *testing.T, s *Server, base string, primary map[string]string, leave ...string) {
	t.Helper()
	ctx := within(t)
	r, err := s.Restore(ctx, primary)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Abort() //nolint:errcheck // it does nothing after Finish
	if err := copyBase(ctx, r, base, "", leave); err != nil {
		t.Fatal(err)
	}
	if err := r.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

func copyBase(ctx context.Context, w snapshot.Writer, from, under string, leave []string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(filepath.Join(under, rel))
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case slices.Contains(leave, name):
			return nil
		case d.IsDir():
			return w.Add(snapshot.File{Path: name, Kind: snapshot.KindDir})
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := w.Add(snapshot.File{Path: name, Kind: snapshot.KindLink, Link: target}); err != nil {
				return err
			}
			return copyBase(ctx, w, target, name, leave)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		to, err := w.Create(ctx, snapshot.File{Path: name, Kind: snapshot.KindFile, Size: info.Size()})
		if err != nil {
			return err
		}
		if _, err := io.Copy(to, f); err != nil {
			return err
		}
		return to.Close()
	})
}

// follower restores a base of p and follows until it is level with p.
func follower(t *testing.T, p *pgtest.Server, cfg Config) *Server {
	t.Helper()
	s := open(t, cfg)
	restore(t, s, takeBase(t, p), nil)
	follow(t, s)
	return s
}

func follow(t *testing.T, s *Server) {
	t.Helper()
	ctx := within(t)
	if err := s.Start(ctx, Follow); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

// end is the end of p's log, now.
func end(t *testing.T, p *pgtest.Server) wal.LSN {
	t.Helper()
	lsn, err := wal.ParseLSN(p.SQL(t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// level waits until s has replayed what p has.
func level(t *testing.T, s *Server, p *pgtest.Server) wal.LSN {
	t.Helper()
	p.SQL(t, "SELECT pg_switch_wal()") // all of it flushed
	at := end(t, p)
	if err := s.WaitReplayed(within(t), at); err != nil {
		t.Fatal(err)
	}
	return at
}

// ends makes p vanish and returns the end of what s has of its log.
func ends(t *testing.T, s *Server, p *pgtest.Server) wal.LSN {
	t.Helper()
	p.Stop(t, pgtest.Fast) // it waits until s has everything
	st, err := s.State(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReplayed(within(t), st.Received); err != nil {
		t.Fatal(err)
	}
	return st.Received
}

// sql asks s and returns the rows as lines, their columns parted by |.
func sql(t *testing.T, s *Server, text string) string {
	t.Helper()
	rows, err := s.askOnce(within(t), text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var lines []string
	for _, row := range rows {
		var cells []string
		for _, cell := range row {
			cells = append(cells, string(cell))
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	return strings.Join(lines, "\n")
}

// watching runs s.Run beside the test and collects what it finds.
type watching struct {
	mu    sync.Mutex
	found []Finding
}

func watchOver(t *testing.T, s *Server) *watching {
	t.Helper()
	w := &watching{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(f Finding) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.found = append(w.found, f)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w
}

func (w *watching) all() []Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.found)
}

// until waits for a finding of a kind.
func (w *watching) until(t *testing.T, kind Kind) Finding {
	t.Helper()
	var out Finding
	eventually(t, "a finding of "+string(kind), func() (bool, error) {
		for _, f := range w.all() {
			if f.Kind == kind {
				out = f
				return true, nil
			}
		}
		return false, nil
	})
	return out
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, cond func() (bool, error)) {
	t.Helper()
	pgtest.Until(t, what, func(context.Context) error {
		ok, err := cond()
		if err == nil && !ok {
			err = fmt.Errorf("not yet")
		}
		return err
	})
}
