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

// Backup takes a base of s, which runs, into dir, without log and manifest. Its
// tablespaces lie beside dir and are linked.
func (s *Server) Backup(dir string) error {
	if err := s.backup(dir, "-X", "none", "--no-manifest"); err != nil {
		return fmt.Errorf("back up %s: %w", s.Name, err)
	}
	return nil
}

// backup has more arguments for pg_basebackup. Where there is none of the server's
// release the log is left out whatever they say: who follows gets it by streaming.
func (s *Server) backup(dir string, more ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	rows, err := s.Query(ctx, "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> '' ORDER BY 1")
	if err != nil {
		return err
	}
	if !isTool(s.Install.BinDir, "pg_basebackup") {
		return s.copyTo(ctx, dir, rows)
	}
	// A tablespace's path is the same for every server of this machine: without a map
	// of its own, each directory of the primary would be written into.
	args := append([]string{"-D", dir, "-h", s.SocketDir, "-p", fmt.Sprint(Port), "-U", Superuser, "-c", "fast", "-N"}, more...)
	for _, space := range rows {
		args = append(args, "-T", space[1]+"="+spaceDir(dir, space[0]))
	}
	_, err = s.Install.Run("pg_basebackup", args...)
	return err
}

// spaceDir is where a backup in dir has the tablespace.
func spaceDir(dir, oid string) string { return dir + ".space" + oid }

// copyTo copies the running server's files by the way of the manual that needs no
// program ("Making a Base Backup Using the Low Level API"). Of each tablespace it
// is given number and place.
func (s *Server) copyTo(ctx context.Context, dir string, spaces [][]string) error {
	c, err := pgconn.Connect(ctx, s.Conn())
	if err != nil {
		return err
	}
	defer c.Close(ctx) //nolint:errcheck // the server ends the session with us
	if _, err := c.Exec(ctx, "SELECT pg_backup_start('pgrun', true)").ReadAll(); err != nil {
		return err
	}
	if err := copyTree(s.DataDir, dir); err != nil {
		return err
	}
	for _, space := range spaces {
		if err := copyTree(space[1], spaceDir(dir, space[0])); err != nil {
			return err
		}
	}
	results, err := c.Exec(ctx, "SELECT labelfile FROM pg_backup_stop(false)").ReadAll()
	if err != nil {
		return err
	}
	return s.Install.asBackup(dir, string(results[0].Rows[0][0]), spaces)
}

// asBackup makes of copied files what a base backup is.
func (in Install) asBackup(dir, label string, spaces [][]string) error {
	for _, name := range []string{"postmaster.pid", "postmaster.opts", "pg_wal", "pg_tblspc", "pg_replslot"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"pg_wal", "pg_tblspc", "pg_replslot"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
		if err := in.Give(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	for _, space := range spaces {
		if err := os.Symlink(spaceDir(dir, space[0]), filepath.Join(dir, "pg_tblspc", space[0])); err != nil {
			return err
		}
	}
	return in.WriteFile(filepath.Join(dir, "backup_label"), label, 0o600)
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
