package pgrun

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killAll kills the postmaster and its children. The postmaster is stopped
// first, so that it starts no process between the listing and the killing; the
// children are in sessions of their own, so a process group does not reach them.
func (s *Server) killAll() error {
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	children, err := childrenOf(pid)
	if err != nil {
		return err
	}
	for _, p := range append(children, pid) {
		if err := syscall.Kill(p, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("process %d: %w", p, err)
		}
	}
	<-s.proc.done
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return Poll(ctx, func(context.Context) error {
		for _, p := range children {
			if st, ok := stateOf(p); ok && st.state != 'Z' {
				return fmt.Errorf("process %d is still there", p)
			}
		}
		return nil
	})
}

type procState struct {
	state  byte
	parent int
}

// stateOf reads /proc/<pid>/stat: "pid (name) state ppid ...", where the name
// may hold anything.
func stateOf(pid int) (procState, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procState{}, false
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return procState{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return procState{state: fields[0][0], parent: parent}, err == nil
}

func childrenOf(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		p, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, ok := stateOf(p); ok && st.parent == pid {
			out = append(out, p)
		}
	}
	return out, nil
}

// freeSharedMemory removes the few bytes of System V shared memory that a killed
// server leaves behind; the kernel keeps them until the next boot, and there is
// a limit to their number. postmaster.pid names the segment in its seventh line.
func (s *Server) freeSharedMemory() {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "postmaster.pid"))
	if err != nil {
		return // it was stopped in order
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return
	}
	if id, err := strconv.Atoi(fields[1]); err == nil {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // already gone is as good
	}
}
