package procgroup

import (
	"errors"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Apart puts a process at the head of a group of its own, so that ^C at the terminal does
// not reach it: who started it ends it.
func Apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// Group sends signals to the process group of a process that was started [Apart], as long
// as its number is surely its own: from the moment on in which the process is reaped, it
// may be anybody's. Its zero value is of a process that runs. All methods may be called
// concurrently, Wait once.
type Group struct {
	mu     sync.Mutex
	reaped bool
}

// Kill signals the group, unless its process has ended.
func (g *Group) Kill(cmd *exec.Cmd, sig syscall.Signal) (sent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.reaped && syscall.Kill(-cmd.Process.Pid, sig) == nil
}

// Wait is cmd.Wait.
func (g *Group) Wait(cmd *exec.Cmd) error {
	for errors.Is(unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	g.mu.Lock()
	g.reaped = true
	g.mu.Unlock()
	return cmd.Wait()
}
