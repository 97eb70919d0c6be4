package shadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/procgroup"
)

// tailBytes is how much of the program's own log goes into an error.
const tailBytes = 600

// program is the service's own, running in the sandbox.
type program struct {
	b   *sandbox
	cfg *Program
	cmd *exec.Cmd
	out *os.File

	group procgroup.Group
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
		Path: args[0], Args: args, Env: b.Environment(cfg.Environment), Dir: b.Home(), Stdout: out, Stderr: out, SysProcAttr: procgroup.Apart(),
	}}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(&tidegate.Error{
			Op: "start", Subject: args[0], Class: tidegate.Permanent, Err: err, Hint: "program.follow is the command line of the service at the standby site",
		}, out.Close())
	}
	// owned by the program: ends with the process, which stop ends.
	go func() {
		p.err = errors.Join(p.group.Wait(p.cmd), out.Close())
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
			cancel(probe.Fault{Err: p.gone()})
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
	p.group.Kill(p.cmd, syscall.SIGTERM)
	late := time.NewTimer(p.cfg.Stop)
	defer late.Stop()
	select {
	case <-p.ended:
	case <-late.C:
	}
	p.group.Kill(p.cmd, syscall.SIGKILL)
	<-p.ended
}
