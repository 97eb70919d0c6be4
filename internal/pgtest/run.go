package pgtest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Run runs one of PostgreSQL's programs to its end as the account and returns
// what it printed, standard error included; the test fails when it fails.
func (in Install) Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := in.Try(tb, nil, name, args...)
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Try is [Install.Run] with more environment, and for programs that may fail.
func (in Install) Try(tb testing.TB, env []string, name string, args ...string) (string, error) {
	tb.Helper()
	cmd := in.command(tb, env, name, args...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (in Install) command(tb testing.TB, env []string, name string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command(in.Tool(tb, name), args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = in.SysProcAttr()
	// The operator's own PG* variables must not lead a test to his servers.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp", "LC_ALL=C", "TZ=UTC", "PGAPPNAME=pgtest"}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// Process is a program that runs beside the test. It is killed when the test
// ends. Methods may be called concurrently.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been reaped
	err  error         // why it ended; valid once done is closed

	mu  sync.Mutex
	out bytes.Buffer
}

// Start starts a program in the background as the account.
func (in Install) Start(tb testing.TB, env []string, name string, args ...string) *Process {
	tb.Helper()
	p := &Process{cmd: in.command(tb, env, name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	go p.reap() // owned by the process; ends when it is reaped
	tb.Cleanup(func() { p.Kill() })
	return p
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
