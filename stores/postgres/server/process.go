package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
)

// process is a running postmaster, a child of this process or not. It names the
// process by a descriptor, so that a signal never meets a stranger who got the
// same number.
type process struct {
	pid  int
	file *os.File // of the pidfd
}

// pidRecord is what postmaster.pid says (miscadmin.h, LOCK_FILE_LINE_*).
type pidRecord struct {
	pid    int
	status string // "starting", "standby", "ready", "stopping"; may be empty
}

func parsePidFile(text []byte) (pidRecord, error) {
	lines := strings.Split(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 0 {
		return pidRecord{}, fmt.Errorf("%s: want a process id in its first line (got %q)", pidFile, lines[0])
	}
	r := pidRecord{pid: pid}
	const statusLine = 8
	if len(lines) >= statusLine {
		r.status = strings.TrimSpace(lines[statusLine-1])
	}
	return r, nil
}

// pidRecord reads postmaster.pid; the zero record when there is none, or one
// that is just being written.
func (s *Server) pidRecord() (pidRecord, error) {
	text, err := readFile(s.fsys, s.inData(pidFile))
	if err != nil || len(bytes.TrimSpace(text)) == 0 {
		return pidRecord{}, err
	}
	return parsePidFile(text)
}

// find returns the server's process, nil when it does not run. A postmaster's
// working directory is its data directory, which tells it from a stranger that
// got its number after a crash.
func (s *Server) find() (*process, error) {
	r, err := s.pidRecord()
	if err != nil || r.pid == 0 {
		return nil, err
	}
	fd, err := unix.PidfdOpen(r.pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", r.pid, err)
	}
	p := &process{pid: r.pid, file: os.NewFile(uintptr(fd), "pidfd")}
	cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", r.pid))
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ESRCH):
		p.close()
		return nil, nil // it has ended
	case errors.Is(err, os.ErrPermission):
		p.close()
		return nil, nil // a stranger's: the server runs as the account, whom this process may look at
	case err != nil:
		p.close()
		return nil, err
	}
	data, err := os.Stat(s.DataDir())
	if err != nil || !os.SameFile(cwd, data) {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *process) close() { _ = p.file.Close() } // nothing was written to it

// signal sends sig; a process that has ended does not mind.
func (p *process) signal(sig syscall.Signal) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = conn.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	if errors.Is(sendErr, unix.ESRCH) {
		sendErr = nil
	}
	return errors.Join(err, sendErr)
}

// wait waits for the process's end.
func (p *process) wait(ctx context.Context) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) }) // it wakes the wait below
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0 // a pidfd is readable once the process has ended
	})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// child is a command that this process started.
type child struct {
	done chan struct{} // closed when it has been reaped
	err  error         // how it ended; valid once done is closed
}

// launch starts postgres, which outlives this process.
func (s *Server) launch(line []string) (*child, error) {
	args := append(append([]string{}, s.cfg.Command...), line...)
	cmd := exec.Command(args[0], args[1:]...)
	s.asAccount(cmd)
	return s.spawn(cmd)
}

// spawn starts a program in a session of its own. What it prints goes to the
// server's log: to a file and not a pipe, for what it leaves running holds it open.
func (s *Server) spawn(cmd *exec.Cmd) (*child, error) {
	out, err := openAppend(s.LogPath())
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the server has its own descriptor
	if err := s.own(s.LogPath()); err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{done: make(chan struct{})}
	go func() { // owned by the server; ends when the command does, which may be after this process
		c.err = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

func (s *Server) tool(name string) string { return filepath.Join(s.cfg.BinDir, name) }

// asAccount lets cmd run as the account, with an environment that is not the
// daemon's: PGOPTIONS and its like must not reach the server.
func (s *Server) asAccount(cmd *exec.Cmd) {
	cmd.Dir = s.cfg.Home
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.cfg.Home, "LC_ALL=C"}, s.cfg.Environment...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if a := s.cfg.Account; a != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.UID, Gid: a.GID}
	}
}

// command is one of PostgreSQL's programs, to be run to its end by the account.
func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.tool(name), args...)
	s.asAccount(cmd)
	return cmd
}

// openAppend opens a log file to append to. It is not the file system seam's: a
// child process writes it, and its loss loses no state.
func openAppend(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// checkConfig lets postgres read its configuration without starting, so that a
// mistake is told in its own words.
func (s *Server) checkConfig(ctx context.Context) error {
	args := append(s.commandLine(), "-C", "data_directory")
	cmd := s.command(ctx, "postgres", args...)
	var out bytes.Buffer
	cmd.Stderr = &out
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var found []Finding
	for line := range strings.Lines(out.String()) {
		if f, ok := Classify(line); ok {
			found = append(found, f)
		}
	}
	text := strings.Join(strings.Fields(out.String()), " ")
	return &tidegate.Error{
		Op: "check configuration of", Subject: s.DataDir(), Class: tidegate.Permanent,
		Hint: hintOf(found, hintConfig), Err: fmt.Errorf("%w; it says: %s", err, text),
	}
}

// hintOf returns the last finding's hint, or the default.
func hintOf(found []Finding, hint string) string {
	for _, f := range found {
		if f.Hint != "" {
			hint = f.Hint
		}
	}
	return hint
}
