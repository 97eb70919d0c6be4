package pglab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tidegate/tidegate/internal/pgrun"
)

// BackRest is a real pgBackRest beside the lab's primary, run as the server's account.
// Its repositories lie beside the server's data, and go with it.
type BackRest struct {
	Program string
	Conf    string // its configuration file
	Version string // "2.45"

	lab   *Lab
	repos []string // directories, by number from 1
}

// NewBackRest configures one with so many repositories and more lines of [global], and
// gives the primary its archive_command: its archive_mode must be on.
func (l *Lab) NewBackRest(ctx context.Context, repos int, global ...string) (*BackRest, error) {
	program, err := exec.LookPath("pgbackrest")
	if err != nil {
		return nil, errors.New("pgbackrest is not installed; run: sudo apt-get install pgbackrest")
	}
	b := &BackRest{Program: program, Conf: filepath.Join(l.Primary.Dir, "pgbackrest.conf"), lab: l}
	lines := []string{"[global]"}
	for n := range repos {
		dir, err := l.AccountDir(fmt.Sprintf("repo%d", n+1))
		if err != nil {
			return nil, err
		}
		b.repos = append(b.repos, dir)
		lines = append(lines, fmt.Sprintf("repo%d-path=%s", n+1, dir), fmt.Sprintf("repo%d-bundle=y", n+1))
	}
	lock, err := l.AccountDir("lock")
	if err != nil {
		return nil, err
	}
	lines = append(lines, "start-fast=y", "log-level-file=off", "log-level-console=warn", "lock-path="+lock)
	lines = append(lines, global...)
	lines = append(lines, "[main]", "pg1-path="+l.Primary.DataDir, "pg1-socket-path="+l.Primary.SocketDir,
		fmt.Sprintf("pg1-port=%d", pgrun.Port), "pg1-user="+pgrun.Superuser, "")
	if err := l.Primary.Install.WriteFile(b.Conf, strings.Join(lines, "\n"), 0o644); err != nil {
		return nil, err
	}
	text, err := b.Run(ctx, "version")
	if err != nil {
		return nil, err
	}
	b.Version = strings.TrimPrefix(strings.TrimSpace(text), "pgBackRest ")
	if _, err := b.Run(ctx, "stanza-create"); err != nil {
		return nil, err
	}
	for _, sql := range []string{
		"ALTER SYSTEM SET archive_command = '" + b.Program + " --config=" + b.Conf + " --stanza=main archive-push %p'",
		"SELECT pg_reload_conf()",
	} {
		if _, err := l.Primary.Query(ctx, sql); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Repo is the directory of a repository, counted from 1.
func (b *BackRest) Repo(n int) string { return b.repos[n-1] }

// AccountDir makes a directory of the server's account beside the primary's data; it
// goes with the server.
func (l *Lab) AccountDir(name string) (string, error) {
	dir := filepath.Join(l.Primary.Dir, name)
	return dir, errors.Join(os.Mkdir(dir, 0o700), l.Primary.Install.Give(dir, 0o700))
}

// Run runs a command of it and returns what it printed, which is in the error, too.
func (b *BackRest) Run(ctx context.Context, command string, args ...string) (string, error) {
	out, _, err := b.Time(ctx, command, args...)
	return out, err
}

// Time is Run, with the processor time that the command and its workers took.
func (b *BackRest) Time(ctx context.Context, command string, args ...string) (out string, cpu time.Duration, err error) {
	all := []string{command}
	if command != "version" {
		all = slices.Concat([]string{"--config=" + b.Conf, "--stanza=main"}, args, all)
	}
	cmd := exec.CommandContext(ctx, b.Program, all...)
	cmd.Dir, cmd.SysProcAttr = "/", b.lab.Primary.Install.SysProcAttr()
	text, err := cmd.CombinedOutput()
	if err != nil {
		return "", 0, fmt.Errorf("pgbackrest %s: %w\n%s", strings.Join(all, " "), err, text)
	}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return string(text), cpu, nil
}
