package pgrun

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// Run runs one of PostgreSQL's programs to its end as the account and returns
// what it printed, standard error included, which is in the error, too.
func (in Install) Run(name string, args ...string) (string, error) {
	out, err := in.Try(nil, name, args...)
	if err != nil {
		return out, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return out, nil
}

// Try is [Install.Run] with more environment, for programs that may fail.
func (in Install) Try(env []string, name string, args ...string) (string, error) {
	cmd, err := in.command(env, name, args...)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (in Install) command(env []string, name string, args ...string) (*exec.Cmd, error) {
	path, err := in.Tool(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = in.SysProcAttr()
	// The operator's own PG* variables must not lead anything to his servers.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp", "LC_ALL=C", "TZ=UTC", "PGAPPNAME=pgrun"}
	cmd.Env = append(cmd.Env, env...)
	return cmd, nil
}

// Process is a program that runs beside the caller, who ends it. Methods may be
// called concurrently.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been reaped
	err  error         // why it ended; valid once done is closed

	mu  sync.Mutex
	out bytes.Buffer
}

// Start starts a program in the background as the account.
func (in Install) Start(env []string, name string, args ...string) (*Process, error) {
	cmd, err := in.command(env, name, args...)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go p.reap() // owned by the process; ends when it is reaped
	return p, nil
}

func (p *Process) reap() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// Write takes the program's output.
func (p *Process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

// Output is what the program has printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the program's end and returns how it ended; ctx bounds the wait.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Signal sends a signal; a program that has ended does not mind.
func (p *Process) Signal(sig syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = p.cmd.Process.Signal(sig) // it may end at this moment
	}
}

// Stop asks the program to end (SIGINT, which pgbench, psql and pg_receivewal
// take for an orderly end) and waits.
func (p *Process) Stop() {
	p.Signal(syscall.SIGINT)
	<-p.done
}

// Kill ends the program at once and waits.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}
