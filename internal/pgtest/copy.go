package pgtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// canBackUp reports whether there is a pg_basebackup of the server's own version;
// an older one refuses the server, and packages of bare servers have none.
func (s *Server) canBackUp() bool { return isTool(s.BinDir, "pg_basebackup") }

// copyTo copies the running server's files into r's data directory by the way of
// the manual that needs no program ("Making a Base Backup Using the Low Level
// API"). The log is left out: r gets it by streaming.
func (s *Server) copyTo(tb testing.TB, r *Server) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	c, err := pgconn.Connect(ctx, s.Conn())
	if err != nil {
		tb.Fatalf("copy %s: %v", s.Name, err)
	}
	defer c.Close(ctx) //nolint:errcheck // the server ends the session with us
	if _, err := c.Exec(ctx, "SELECT pg_backup_start('pgtest', true)").ReadAll(); err != nil {
		tb.Fatalf("copy %s: %v", s.Name, err)
	}
	copyTree(tb, s.DataDir, r.DataDir)
	for i, dir := range s.tablespaces(tb) {
		copyTree(tb, dir, r.tablespaceDir(i))
	}
	results, err := c.Exec(ctx, "SELECT labelfile, spcmapfile FROM pg_backup_stop(false)").ReadAll()
	if err != nil {
		tb.Fatalf("copy %s: %v", s.Name, err)
	}
	row := results[0].Rows[0]
	links := string(row[1])
	for i, dir := range s.tablespaces(tb) {
		links = strings.ReplaceAll(links, " "+dir+"\n", " "+r.tablespaceDir(i)+"\n")
	}
	for _, name := range []string{"postmaster.pid", "pg_wal", "pg_tblspc", "pg_replslot"} {
		if err := os.RemoveAll(filepath.Join(r.DataDir, name)); err != nil {
			tb.Fatalf("copy %s: %v", s.Name, err)
		}
	}
	for _, name := range []string{"pg_wal", "pg_tblspc", "pg_replslot"} {
		dir := filepath.Join(r.DataDir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			tb.Fatalf("copy %s: %v", s.Name, err)
		}
		r.Give(tb, dir, 0o700)
	}
	r.WriteFile(tb, filepath.Join(r.DataDir, "backup_label"), string(row[0]), 0o600)
	if links != "" {
		r.WriteFile(tb, filepath.Join(r.DataDir, "tablespace_map"), links, 0o600)
	}
}

// copyTree copies with owners and links. Files that vanish meanwhile are the log's
// business, which replays their removal; cp says that they did.
func copyTree(tb testing.TB, from, to string) {
	tb.Helper()
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	for l := range strings.Lines(string(out)) {
		if err != nil && !strings.Contains(l, "No such file or directory") {
			tb.Fatalf("copy: %v\n%s", err, out)
		}
	}
}

// tablespaceDir is where a replica has the i-th tablespace of its primary.
func (s *Server) tablespaceDir(i int) string {
	return filepath.Join(s.Dir, fmt.Sprintf("tablespace%d", i))
}
