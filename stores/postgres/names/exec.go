package names

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

// envNames is where the program finds the names.
const envNames = "TIDEGATE_STANDBY_NAMES"

// printedMax bounds what is kept of what the program prints.
const printedMax = 1 << 10

type program struct {
	cfg     ExecConfig
	timeout time.Duration
}

// Set implements [Driver]: exit 0 has set the names. A program that hangs is killed
// with everything it started.
func (p program) Set(ctx context.Context, _ *replication.SQL, names string) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.cfg.Command[0], p.cfg.Command[1:]...)
	var out printed
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), envNames+"="+names)
	// A group of its own, so that what the program started dies with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A grandchild may have left the group and keep the pipe open: do not wait for it.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("killed after %s: %w", p.timeout, ctx.Err())
	}
	if text := strings.Join(strings.Fields(out.String()), " "); text != "" {
		err = fmt.Errorf("%w; it printed: %s", err, text)
	}
	return failed(p.cfg.Command[0], tidegate.Transient, "run it by hand with "+envNames+"='"+names+"' in the environment; it must exit with 0", "%w", err)
}

// printed keeps the first bytes; the rest counts as accepted, so that a chatty
// program is not stopped by a full pipe.
type printed struct{ bytes.Buffer }

func (b *printed) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), printedMax-b.Len())])
	return len(p), nil
}
