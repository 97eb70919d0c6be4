package pgrun

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// canBackUp reports whether there is a pg_basebackup of the server's own version;
// an older one refuses the server, and packages of bare servers have none.
func (s *Server) canBackUp() bool { return isTool(s.Install.BinDir, "pg_basebackup") }

// copyTo copies the running server's files into r's data directory by the way of
// the manual that needs no program ("Making a Base Backup Using the Low Level
// API"). The log is left out: r gets it by streaming.
func (s *Server) copyTo(r *Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	dirs, err := s.tablespaces(ctx)
	if err != nil {
		return err
	}
	c, err := pgconn.Connect(ctx, s.Conn())
	if err != nil {
		return err
	}
	defer c.Close(ctx) //nolint:errcheck // the server ends the session with us
	if _, err := c.Exec(ctx, "SELECT pg_backup_start('pgrun', true)").ReadAll(); err != nil {
		return err
	}
	if err := copyTree(s.DataDir, r.DataDir); err != nil {
		return err
	}
	for i, dir := range dirs {
		if err := copyTree(dir, r.tablespaceDir(i)); err != nil {
			return err
		}
	}
	results, err := c.Exec(ctx, "SELECT labelfile, spcmapfile FROM pg_backup_stop(false)").ReadAll()
	if err != nil {
		return err
	}
	row := results[0].Rows[0]
	links := string(row[1])
	for i, dir := range dirs {
		links = strings.ReplaceAll(links, " "+dir+"\n", " "+r.tablespaceDir(i)+"\n")
	}
	return r.asBackup(string(row[0]), links)
}

// asBackup makes of copied files what a base backup is.
func (s *Server) asBackup(label, links string) error {
	for _, name := range []string{"postmaster.pid", "pg_wal", "pg_tblspc", "pg_replslot"} {
		if err := os.RemoveAll(filepath.Join(s.DataDir, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"pg_wal", "pg_tblspc", "pg_replslot"} {
		dir := filepath.Join(s.DataDir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := s.Install.Give(dir, 0o700); err != nil {
			return err
		}
	}
	if err := s.Install.WriteFile(filepath.Join(s.DataDir, "backup_label"), label, 0o600); err != nil || links == "" {
		return err
	}
	return s.Install.WriteFile(filepath.Join(s.DataDir, "tablespace_map"), links, 0o600)
}

// copyTree copies with owners and links. Files that vanish meanwhile are the log's
// business, which replays their removal; cp says that they did.
func copyTree(from, to string) error {
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	for l := range strings.Lines(string(out)) {
		if err != nil && !strings.Contains(l, "No such file or directory") {
			return fmt.Errorf("copy %s: %w\n%s", from, err, out)
		}
	}
	return nil
}
