package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Proc is one real operating-system process with its log file. It can be
// killed, frozen, thawed and started again with the same arguments. Methods may
// be called concurrently.
type Proc struct {
	Name string   // unique in its lab; also the log file's name
	Site string   // whose disaster takes it down
	Args []string // binary first

	logPath string

	mu      sync.Mutex
	cmd     *exec.Cmd
	done    chan struct{} // closed when the running process has been reaped
	exit    error         // why it ended; valid once done is closed
	starts  int
	expects bool // an end was asked for: kill or stop
}

// Start starts the process; it must not be running.
func (p *Proc) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return fmt.Errorf("start %s: already running", p.Name)
	}
	logFile, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	defer logFile.Close() //nolint:errcheck // the child holds its own descriptor
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	// The lab's death must not leave a primary site running: the kernel kills the children with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "GOTRACEBACK=single")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.done, p.expects = cmd, make(chan struct{}), false
	p.starts++
	go p.reap(cmd, p.done) // owned by the process itself; ends when it is reaped
	return nil
}

func (p *Proc) reap(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	p.mu.Lock()
	p.cmd, p.exit = nil, err
	p.mu.Unlock()
	close(done)
}

// Signal sends sig to the running process; a process that is not running is an error.
func (p *Proc) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("signal %s: not running", p.Name)
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process with SIGKILL and waits until it is reaped. A process
// that is not running is left alone.
func (p *Proc) Kill() {
	p.end(syscall.SIGKILL)
}

// Stop asks the process to end (SIGTERM), waits up to grace, then kills it.
func (p *Proc) Stop(grace time.Duration) {
	p.mu.Lock()
	running, done := p.cmd != nil, p.done
	p.expects = true
	if running {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be ending already
	}
	p.mu.Unlock()
	if !running {
		return
	}
	select {
	case <-done:
	case <-time.After(grace):
		p.Kill()
	}
}

func (p *Proc) end(sig syscall.Signal) {
	p.mu.Lock()
	running, done := p.cmd != nil, p.done
	p.expects = true
	if running {
		_ = p.cmd.Process.Signal(sig) // it may be ending already
	}
	p.mu.Unlock()
	if running {
		<-done
	}
}

// Running reports whether the process has been started and not yet reaped.
func (p *Proc) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// PID is the running process's; 0 when it is not running.
func (p *Proc) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Died returns why the process ended by itself, or nil when it runs or was
// ended by the lab.
func (p *Proc) Died() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil || p.expects || p.starts == 0 {
		return nil
	}
	if p.exit == nil {
		return fmt.Errorf("%s exited by itself with status 0 (log: %s)", p.Name, p.logPath)
	}
	return fmt.Errorf("%s: %w (log: %s)", p.Name, p.exit, p.logPath)
}

// RSS returns the resident memory in bytes; it is an error when the process is not running.
func (p *Proc) RSS() (int64, error) {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return 0, fmt.Errorf("memory of %s: not running", p.Name)
	}
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid), "statm"))
	if err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	var total, resident int64
	if _, err := fmt.Sscan(string(b), &total, &resident); err != nil {
		return 0, fmt.Errorf("memory of %s: %w", p.Name, err)
	}
	return resident * int64(os.Getpagesize()), nil
}

// Until calls cond until it returns nil, soon at first and every quarter of a
// second later: most conditions run a command, and a lab that is waited for must
// not be starved by the waiting. It returns cond's last error once ctx ends. A
// process that dies meanwhile ends the wait at once.
func (l *Lab) Until(ctx context.Context, what string, cond func(context.Context) error) error {
	const soon, seldom = 20 * time.Millisecond, 250 * time.Millisecond
	pause := soon
	var last error
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err // an interrupted call says nothing about the condition
		}
		if err := l.Died(); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(context.Cause(ctx), last))
		case <-time.After(pause):
			pause = min(pause*3/2, seldom)
		}
	}
}
