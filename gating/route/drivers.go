package route

import (
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

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// DriverConfig configures the drivers that the gate calls at a switch, besides
// the proxies that follow it.
type DriverConfig struct {
	Exec ExecConfig `yaml:"exec"`
	File FileConfig `yaml:"file"`
}

// ExecConfig configures the hook; no command, no hook.
type ExecConfig struct {
	Command  []string      `yaml:"command"`  // program and arguments, no shell
	Deadline time.Duration `yaml:"deadline"` // then the hook and its children are killed; default 10s
}

// FileConfig configures the files; no directory, no files.
type FileConfig struct {
	Dir string `yaml:"dir"` // <service>.json is replaced there at every switch
}

// SetDefaults fills what was left out.
func (c DriverConfig) SetDefaults() DriverConfig {
	if c.Exec.Deadline == 0 {
		c.Exec.Deadline = 10 * time.Second // a name server or load balancer answers in a few
	}
	return c
}

// Validate reports every broken rule.
func (c DriverConfig) Validate() error {
	var errs []error
	if len(c.Exec.Command) > 0 {
		errs = append(errs, config.AbsPath("exec.command[0]", c.Exec.Command[0]))
	}
	errs = append(errs, config.AtLeast("exec.deadline", c.Exec.Deadline, 100*time.Millisecond))
	if c.File.Dir != "" {
		errs = append(errs, config.AbsPath("file.dir", c.File.Dir))
	}
	return errors.Join(errs...)
}

// Drivers returns the configured drivers.
func (c DriverConfig) Drivers(fsys vfs.FS) []Driver {
	var out []Driver
	if len(c.Exec.Command) > 0 {
		out = append(out, &Exec{cfg: c.Exec})
	}
	if c.File.Dir != "" {
		out = append(out, &File{fs: fsys, cfg: c.File})
	}
	return out
}

// Exec runs a program at every switch. It gets the target as JSON on standard
// input and as TIDEGATE_SERVICE, TIDEGATE_EPOCH, TIDEGATE_SITE and
// TIDEGATE_ENDPOINTS (space-separated) in its environment; exit 0 is success.
type Exec struct{ cfg ExecConfig }

// NewExec makes a hook.
func NewExec(cfg ExecConfig) *Exec { return &Exec{cfg: cfg} }

// Name implements [Driver].
func (*Exec) Name() string { return "exec" }

// hookOutputMax bounds what is kept of a hook's output, in bytes.
const hookOutputMax = 4096

// Switch implements [Driver]. A hook that hangs is killed with everything it
// started, and its output is part of the error.
func (e *Exec) Switch(ctx context.Context, t Target) error {
	in, err := json.Marshal(t)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.cfg.Command[0], e.cfg.Command[1:]...)
	out := &tail{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), out, out
	cmd.Env = append(os.Environ(),
		"TIDEGATE_SERVICE="+string(t.Service), "TIDEGATE_EPOCH="+t.Epoch.String(),
		"TIDEGATE_SITE="+string(t.Site), "TIDEGATE_ENDPOINTS="+strings.Join(t.Endpoints, " "))
	// A group of its own, so that what the hook started dies with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild may have left the group and keep the pipe open: do not wait for it.
	cmd.WaitDelay = time.Second
	if err = cmd.Run(); err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("killed after %s: %w", e.cfg.Deadline, ctx.Err())
	}
	if text := out.String(); text != "" {
		err = fmt.Errorf("%w; it printed: %s", err, text)
	}
	return &tidegate.Error{
		Op: "run route hook", Subject: e.cfg.Command[0], Class: tidegate.Transient, Err: err,
		Hint: "the writer has changed but clients are not sent to it yet; run the hook by hand or repair it, the switch is tried again",
	}
}

// tail keeps the first hookOutputMax bytes; the rest is counted as accepted, so
// that a chatty hook is not stopped by a full pipe.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[:min(len(p), hookOutputMax-len(t.b))]...)
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.b)) }

// File replaces <dir>/<service>.json at every switch, for a load balancer or
// name server that watches files.
type File struct {
	fs  vfs.FS
	cfg FileConfig
}

// NewFile makes a file driver.
func NewFile(fsys vfs.FS, cfg FileConfig) *File { return &File{fs: fsys, cfg: cfg} }

// Name implements [Driver].
func (*File) Name() string { return "file" }

// Switch implements [Driver].
func (f *File) Switch(_ context.Context, t Target) error {
	err := durable.MkdirAll(f.fs, f.cfg.Dir)
	if err == nil {
		err = writeTarget(f.fs, f.cfg.Dir, t)
	}
	if err != nil {
		return &tidegate.Error{Op: "write route", Subject: string(t.Service), Class: tidegate.Transient, Err: err}
	}
	return nil
}

func writeTarget(fsys vfs.FS, dir string, t Target) error {
	b, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(fsys, filepath.Join(dir, string(t.Service)+".json"), append(b, '\n'))
}
