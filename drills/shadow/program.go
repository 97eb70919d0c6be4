package shadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
)

// tailBytes is how much of the program's own log goes into an error.
const tailBytes = 600

// program is the service's own, running in the sandbox.
type program struct {
	b   *sandbox
	cfg *Program
	cmd *exec.Cmd
	out *os.File

	group group
	ended chan struct{} // closed when it has
	err   error         // of after ended
}

// start starts the program, at addresses of these names which are drawn just before.
func (b *sandbox) start(cfg *Program, addresses []string) (*program, error) {
	out, err := os.OpenFile(b.program(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := b.draw(addresses); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	args := b.fillAll(cfg.Follow)
	p := &program{b: b, cfg: cfg, out: out, ended: make(chan struct{}), cmd: &exec.Cmd{
		Path: args[0], Args: args, Env: b.environment(cfg.Environment), Dir: b.home(), Stdout: out, Stderr: out, SysProcAttr: sysProc(),
	}}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(&tidegate.Error{
			Op: "start", Subject: args[0], Class: tidegate.Permanent, Err: err, Hint: "program.follow is the command line of the service at the standby site",
		}, out.Close())
	}
	// owned by the program: ends with the process, which stop ends.
	go func() {
		p.err = errors.Join(p.group.wait(p.cmd), out.Close())
		close(p.ended)
	}()
	return p, nil
}

// within is ctx until the program ends by itself; then its cause says how.
func (p *program) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	// owned by the returned context: ends with it.
	go func() {
		select {
		case <-p.ended:
			cancel(cloneError{p.gone()})
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}

// hangUpWait is how much later than its sessions a program may end.
const hangUpWait = time.Second

// hasEnded reports whether the program has; one that has hung up is waited for a little.
func (p *program) hasEnded(hungUp bool) bool {
	select {
	case <-p.ended:
		return true
	default:
	}
	if !hungUp {
		return false
	}
	late := time.NewTimer(hangUpWait)
	defer late.Stop()
	select {
	case <-p.ended:
		return true
	case <-late.C:
		return false
	}
}

// gone is the error of a program that ended by itself; of after ended.
func (p *program) gone() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return &tidegate.Error{
		Op: "run", Subject: p.cmd.Path, Class: tidegate.Permanent, Err: fmt.Errorf("the program ended: %s: %s", how, p.b.lastWords()),
		Hint: "start it by hand as program.follow does, on an empty folder",
	}
}

// lastWords is the end of what the program has printed.
func (b *sandbox) lastWords() string {
	f, err := os.Open(b.program())
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }() // only read
	if st, err := f.Stat(); err == nil && st.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text))
}

// stop ends the program and what is of its group, and waits for it. What it has started
// besides, or what outlives it, has the sandbox's mark.
func (p *program) stop() {
	p.group.kill(p.cmd, syscall.SIGTERM)
	late := time.NewTimer(p.cfg.Stop)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
	}
	p.group.kill(p.cmd, syscall.SIGKILL)
	<-p.ended
}

// group sends signals to the process group of a process that [sysProc] started, as long
// as its number is surely its own: from the moment on in which the process is reaped, it
// may be anybody's. Its zero value is of a process that runs.
type group struct {
	mu     sync.Mutex
	reaped bool
}

// kill signals the group, unless its process has ended.
func (g *group) kill(cmd *exec.Cmd, sig syscall.Signal) (sent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.reaped && syscall.Kill(-cmd.Process.Pid, sig) == nil
}

// wait is cmd.Wait.
func (g *group) wait(cmd *exec.Cmd) error {
	for errors.Is(unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	g.mu.Lock()
	g.reaped = true
	g.mu.Unlock()
	return cmd.Wait()
}
