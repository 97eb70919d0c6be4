package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/internal/pgrun"
)

// copied is one backup, or one base.
type copied struct {
	name   string // of the set, or of the base's manifest
	took   time.Duration
	stored int64         // bytes that the repository, or the archive, has more than before
	held   time.Duration // of took, up to when the node held it; ours
}

// backUp takes a backup of pgBackRest's into the repository of a compression.
func (r *rig) backUp(ctx context.Context, n int, kind string) (c copied, err error) {
	r.say("pgBackRest, %s: backup, %s", theirs[n], kind)
	before, err := bytesBelow(r.backups(n))
	if err != nil {
		return c, err
	}
	began := time.Now()
	repo := fmt.Sprintf("--repo=%d", n+1)
	if _, err := r.back.Run(ctx, "backup", repo, "--type="+kind, "--compress-type="+theirs[n]); err != nil {
		return c, err
	}
	c.took = time.Since(began)
	after, err := bytesBelow(r.backups(n))
	if err != nil {
		return c, err
	}
	c.stored = after - before
	text, err := r.back.Run(ctx, "info", repo, "--output=json")
	if err != nil {
		return c, err
	}
	var stanzas []struct{ Backup []struct{ Label string } }
	if err := json.Unmarshal([]byte(text), &stanzas); err != nil {
		return c, fmt.Errorf("pgbackrest info: %w", err)
	}
	if len(stanzas) != 1 || len(stanzas[0].Backup) == 0 {
		return c, fmt.Errorf("pgbackrest info: no backup in %s", text)
	}
	c.name = stanzas[0].Backup[len(stanzas[0].Backup)-1].Label
	return c, nil
}

// backups is where a repository has them; the log lies beside it.
func (r *rig) backups(n int) string { return filepath.Join(r.back.Repo(n+1), "backup") }

// restoreTheirs restores a backup of pgBackRest's into a directory that it makes.
func (r *rig) restoreTheirs(ctx context.Context, n int, set, name string) (t trial, err error) {
	dir, err := r.lab.AccountDir(name)
	if err != nil {
		return t, err
	}
	if err := r.cold(r.back.Repo(n + 1)); err != nil {
		return t, err
	}
	began := time.Now()
	_, t.cpu, err = r.back.Time(ctx, "restore", fmt.Sprintf("--repo=%d", n+1), "--set="+set, "--pg1-path="+dir, "--archive-mode=off")
	t.took, t.data = time.Since(began), dir
	t.home = dir
	return t, err
}

// firstBase starts everything of Tidegate, and returns once the archive has the base
// that the agent took.
func (r *rig) firstBase(ctx context.Context) (c copied, err error) {
	r.say("ours: a base, from the primary to the archive")
	if err := r.lab.Up(ctx, func(text string) { r.say("  %s", text) }); err != nil {
		return c, err
	}
	if c.held, err = r.logged(ctx, "agent-p1", "base shipped", 1); err != nil {
		return c, err
	}
	if err := r.archived(ctx, &c, 1); err != nil {
		return c, err
	}
	c.stored, err = r.basesBytes()
	return c, err
}

// nextBase has the node take a base of its warm server, and returns once the archive
// has it, which is the n-th.
func (r *rig) nextBase(ctx context.Context, n int) (c copied, err error) {
	r.say("ours: another base, of the warm server")
	before, err := r.basesBytes()
	if err != nil {
		return c, err
	}
	if _, err := r.lab.Command(ctx, r.lab.Bin("tidegate"), "standby", "base", "refresh", "--config", r.lab.File(node, "standby.yaml"), "--wait", r.stream); err != nil {
		return c, err
	}
	if c.held, err = r.logged(ctx, "standby-"+node, "base renewed", n-1); err != nil {
		return c, err
	}
	if err := r.archived(ctx, &c, n); err != nil {
		return c, err
	}
	after, err := r.basesBytes()
	c.stored = after - before
	return c, err
}

// archived waits for the n-th base of the archive, and adds how long it took to put it
// there. For how long the node waits before it looks what there is to do is not counted.
func (r *rig) archived(ctx context.Context, c *copied, n int) error {
	took, err := r.logged(ctx, "standby-"+node, "base archived", n)
	if err != nil {
		return err
	}
	c.took = c.held + took
	return r.lab.Until(ctx, "the archive to lead from its base on", func(context.Context) error {
		text, err := r.lab.Command(ctx, r.lab.Bin("tidegate"), "window", "--url", "file://"+r.archive(), "-o", "json")
		if err != nil {
			return err
		}
		var windows []struct {
			Stream string `json:"stream_id"`
			Bases  []struct{ Name, Unfit string }
		}
		if err := json.Unmarshal(text, &windows); err != nil {
			return err
		}
		if len(windows) != 1 || len(windows[0].Bases) != n || windows[0].Bases[n-1].Unfit != "" {
			return fmt.Errorf("the archive has %s, want a stream with %d bases", text, n)
		}
		r.stream, c.name = windows[0].Stream, windows[0].Bases[n-1].Name
		return nil
	})
}

// logged waits for the n-th line of a process that says msg, and returns the time that
// it names.
func (r *rig) logged(ctx context.Context, proc, msg string, n int) (took time.Duration, err error) {
	err = r.lab.Until(ctx, proc+" to say "+msg, func(context.Context) error {
		f, err := os.Open(r.lab.File("logs", proc+".log"))
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // only read
		left := n
		for in := bufio.NewScanner(f); in.Scan() && left > 0; {
			var line struct{ Msg, Took string }
			if json.Unmarshal(in.Bytes(), &line) != nil || line.Msg != msg {
				continue // or it is not whole yet
			}
			if left--; left == 0 {
				took, err = time.ParseDuration(line.Took)
				return err
			}
		}
		return errors.New("it does not yet")
	})
	return took, err
}

// basesBytes is what bases take in the archive; segments of log lie beside them.
func (r *rig) basesBytes() (sum int64, err error) {
	found, err := filepath.Glob(filepath.Join(r.archive(), "streams", "*", "bases"))
	for _, dir := range found {
		n, err := bytesBelow(dir)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, err
}

// restoreOurs restores a base out of the archive into a directory that does not exist.
func (r *rig) restoreOurs(ctx context.Context, base, name string) (t trial, err error) {
	if err := r.cold(r.archive()); err != nil {
		return t, err
	}
	t.home = filepath.Join(r.lab.Primary.Dir, name)
	args := []string{"restore", "--url", "file://" + r.archive(), "--service", lab.Service, "--base", base, "--into", t.home, "--recoveries", "none", "-o", "json"}
	if a := r.lab.Primary.Install.Account; !a.Self {
		args = append(args, "--account", a.Name)
	}
	if r.profile != "" {
		args = append(args, "--cpuprofile", r.profile)
		r.profile = ""
	}
	cmd := exec.CommandContext(ctx, r.lab.Bin("tidegate"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return t, fmt.Errorf("tidegate %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	t.took = time.Since(began)
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		t.cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var said struct {
		Bytes int64 `json:"base_bytes"`
		Path  string
	}
	if err := json.Unmarshal(out.Bytes(), &said); err != nil {
		return t, err
	}
	t.bytes, t.data = said.Bytes, said.Path
	return t, nil
}

// answers starts the server that was restored, beside all others, and returns what it
// has once it takes writes.
func (r *rig) answers(ctx context.Context, t trial) (text string, err error) {
	install := r.lab.Primary.Install
	socket := filepath.Join(r.lab.Primary.Dir, "s-restored")
	if err := errors.Join(os.Mkdir(socket, 0o700), install.Give(socket, 0o700)); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(socket)) }()
	options := "-c listen_addresses='' -c archive_mode=off -c ssl=off -c synchronous_standby_names='' -c unix_socket_directories=" + socket
	// Its log takes pg_ctl's standard output, which would be waited for.
	if _, err := install.Run("pg_ctl", "-D", t.data, "-w", "-t", "120", "-l", filepath.Join(socket, "log"), "-o", options, "start"); err != nil {
		said, _ := os.ReadFile(filepath.Join(socket, "log")) // the error says enough without
		return "", fmt.Errorf("%w\n%s", err, said)
	}
	defer func() {
		_, stop := install.Run("pg_ctl", "-D", t.data, "-w", "-m", "immediate", "stop")
		err = errors.Join(err, stop)
	}()
	conn := fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable", socket, pgrun.Port, pgrun.Superuser)
	err = r.lab.Until(ctx, "the restored server to take writes", func(ctx context.Context) error {
		rows, err := pgrun.Query(ctx, conn, "SELECT pg_is_in_recovery()")
		if err == nil && pgrun.Text(rows) != "f" {
			err = errors.New("it recovers")
		}
		return err
	})
	if err != nil {
		return "", err
	}
	rows, err := pgrun.Query(ctx, conn, contents)
	return pgrun.Text(rows), err
}
