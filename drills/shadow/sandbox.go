package shadow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/procgroup"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

// markName is the variable by which a process is known to belong to a sandbox.
const markName = "TIDEGATE_DRILL"

const (
	sandboxPrefix = "drill-"
	ownerFile     = "owner.json"
	lockFile      = "lock"
	idBytes       = 4 // of a sandbox, drawn
)

// owner is what lies in a sandbox, from its first moment on.
type owner struct {
	Service tidegate.ServiceName `json:"service"`
	Mark    string               `json:"mark"` // the value of markName in its processes
	PID     int                  `json:"pid"`  // of the drill
	Begun   time.Time            `json:"begun"`
}

// scratch is the directory of drills, held by one of them.
type scratch struct {
	fs   vfs.FS
	clk  clock.Clock
	dir  string
	lock *os.File
}

// openScratch takes the directory, or says that another drill has it.
func openScratch(fsys vfs.FS, clk clock.Clock, dir string) (*scratch, error) {
	if err := durable.MkdirAll(fsys, dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) //nolint:gosec // a descriptor
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = &tidegate.Error{
			Op: "begin drill in", Subject: dir, Class: tidegate.Refused, Err: fmt.Errorf("another drill runs there: %w", tidegate.ErrConflict),
			Hint: "wait for its end, or name another scratch directory",
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &scratch{fs: fsys, clk: clk, dir: dir, lock: f}, nil
}

// close gives the directory back. A process that is being started at this moment may have
// the file still: closing it alone would leave it locked until then.
func (s *scratch) close() error {
	return errors.Join(unix.Flock(int(s.lock.Fd()), unix.LOCK_UN), s.lock.Close()) //nolint:gosec // a descriptor
}

// leftOvers finds the sandboxes of drills that were killed, ends what runs in them, and
// removes them. What is not a sandbox is somebody's, and refused.
func (s *scratch) leftOvers() ([]evidence.LeftOver, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, err
	}
	all := []evidence.LeftOver{}
	for _, name := range names {
		if name == lockFile {
			continue
		}
		dir := filepath.Join(s.dir, name)
		mark, is := strings.CutPrefix(name, sandboxPrefix)
		id, err := strconv.ParseUint(mark, 16, 8*idBytes)
		if !is || err != nil || mark != markText(uint32(id)) {
			return nil, s.foreign(name, errors.New("no drill calls anything so"))
		}
		if err := owned(dir, mark); err != nil {
			return nil, s.foreign(name, err)
		}
		found, err := s.clean(dir, mark)
		if err != nil {
			return nil, fmt.Errorf("clean up after a drill that was killed: %s: %w", dir, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func (s *scratch) foreign(name string, why error) error {
	return &tidegate.Error{
		Op: "begin drill in", Subject: s.dir, Class: tidegate.Refused, Err: fmt.Errorf("it has %s, which no drill has left: %w", name, why),
		Hint: "name a scratch directory of the drill's own; nothing in this one is touched",
	}
}

// owned is an error when a directory is not what a drill of that mark has made: it says
// so itself, and is empty only before it does and after it was emptied.
func owned(dir, mark string) error {
	if st, err := os.Lstat(dir); err != nil {
		return err
	} else if !st.IsDir() {
		return errors.New("it is no directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	begun := !slices.ContainsFunc(entries, func(e os.DirEntry) bool { // killed while it was written
		return !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), ownerFile+".")
	})
	if begun {
		return nil
	}
	path := filepath.Join(dir, ownerFile)
	if st, err := os.Lstat(path); err != nil {
		return err
	} else if !st.Mode().IsRegular() {
		return fmt.Errorf("its %s is no file", ownerFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var o owner
	if err := json.Unmarshal(text, &o); err != nil {
		return fmt.Errorf("its %s: %w", ownerFile, err)
	}
	if o.Mark != mark {
		return fmt.Errorf("its %s is of mark %q", ownerFile, o.Mark)
	}
	return nil
}

// clean ends the processes of a sandbox and removes it.
func (s *scratch) clean(dir, mark string) ([]evidence.LeftOver, error) {
	var found []evidence.LeftOver
	data, unstopped := endServer(s, dir) // what follows kills it
	if data != "" {
		found = append(found, evidence.LeftOver{What: "process", Where: "server of " + data, Removed: unstopped == nil})
	}
	killed, err := procgroup.EndAll(inhabits(dir, mark))
	if err != nil {
		return nil, err
	}
	for _, pid := range killed {
		found = append(found, evidence.LeftOver{What: "process", Where: fmt.Sprintf("pid %d of sandbox %s", pid, dir), Removed: true})
	}
	if err := s.remove(dir); err != nil {
		return nil, err
	}
	return append(found, evidence.LeftOver{What: "sandbox", Where: dir, Removed: true}), nil
}

// remove removes a sandbox; that it is one, it says until nothing else is in it.
func (s *scratch) remove(dir string) error {
	if st, err := os.Lstat(dir); err == nil && st.IsDir() {
		names, err := s.fs.List(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if name == ownerFile {
				continue
			}
			if err := durable.RemoveTree(s.fs, filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	}
	return durable.RemoveTree(s.fs, dir)
}

// serverProgram is what runs as a PostgreSQL server, and as each of its children.
const serverProgram = "postgres"

// inhabits tells the processes of a sandbox: those with its mark, and PostgreSQL's in its
// directory, which write their titles over their environment. Those of other users cannot
// be read, and are none of a drill's, which started its own.
func inhabits(dir, mark string) func(pid int) bool {
	want, below := markName+"="+mark, resolved(dir)+"/"
	return func(pid int) bool { return procgroup.HasVariable(pid, want) || isServer(pid, below) }
}

// isServer reports whether a process is a PostgreSQL server's in a directory below a path,
// and not somebody's who looks around there.
func isServer(pid int, below string) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	if err != nil || !strings.HasPrefix(cwd, below) {
		return false
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == serverProgram
}

func markText(id uint32) string { return fmt.Sprintf("%0*x", 2*idBytes, id) }

// sandbox is where a clone lives: run, data, the log that was read, and the base.
type sandbox struct {
	s      *scratch
	dir    string
	mark   string
	values map[string]string // for the names in braces; addresses once the program has been started
}

// make makes an empty sandbox. With an error it may be there, and is to be torn down.
func (s *scratch) make(cfg *Config, now time.Time) (*sandbox, error) {
	id := tidegate.NewID()
	mark := fmt.Sprintf("%x", id[:idBytes])
	b := &sandbox{s: s, dir: filepath.Join(s.dir, sandboxPrefix+mark), mark: mark}
	if err := s.fs.MkdirAll(b.dir); err != nil {
		return b, err
	}
	text, err := json.Marshal(owner{Service: cfg.Service, Mark: mark, PID: os.Getpid(), Begun: now.UTC()})
	if err != nil {
		return b, err
	}
	if err := durable.WriteFile(s.fs, filepath.Join(b.dir, ownerFile), text); err != nil {
		return b, err
	}
	for _, dir := range []string{b.data(), b.run(), b.log(), b.stage(), b.Home()} {
		if err := s.fs.MkdirAll(dir); err != nil {
			return b, err
		}
	}
	b.values = map[string]string{"{data}": b.data(), "{run}": b.run(), "{canary}": tidegate.NewID().String()}
	return b, nil
}

// draw draws an address on this machine's loopback for each name. It was free a moment ago.
func (b *sandbox) draw(names []string) error {
	var held []net.Listener // all at once: no address is drawn twice
	defer func() {
		for _, ln := range held {
			_ = ln.Close() // nobody connected
		}
	}()
	for _, name := range names {
		ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("find a free port for %s: %w", name, err)
		}
		held = append(held, ln)
		b.values[name] = ln.Addr().String()
	}
	return nil
}

// Given implements [probe.Place]: an address is one that was drawn, or a socket's in the
// folder for such.
func (b *sandbox) Given(addr string) bool {
	if strings.HasPrefix(filepath.Clean(addr), b.run()+"/") {
		return true
	}
	for name, v := range b.values {
		if strings.HasPrefix(name, addressPlace) && v == addr {
			return true
		}
	}
	return false
}

const dataName = "data"

func (b *sandbox) data() string    { return filepath.Join(b.dir, dataName) }
func (b *sandbox) run() string     { return filepath.Join(b.dir, "run") }
func (b *sandbox) log() string     { return filepath.Join(b.dir, "log") }
func (b *sandbox) stage() string   { return filepath.Join(b.dir, "base") }
func (b *sandbox) program() string { return filepath.Join(b.dir, "program.log") }

// Home implements [probe.Place].
func (b *sandbox) Home() string { return filepath.Join(b.dir, "home") }

// Fill implements [probe.Place].
func (b *sandbox) Fill(text string) string { return probe.Fill(text, b.values) }

func (b *sandbox) fillAll(texts []string) []string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = b.Fill(t)
	}
	return out
}

// Environment implements [probe.Place]: it is what processes in the sandbox get, and
// nothing else. No credential of the drill's, and no socket of a live daemon, is in it.
func (b *sandbox) Environment(more map[string]string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.Home(), "TMPDIR=" + b.Home(), b.variable()}
	for k, v := range more {
		env = append(env, k+"="+v)
	}
	return env
}

// variable is the mark of the sandbox's processes.
func (b *sandbox) variable() string { return markName + "=" + b.mark }

// open lets a server's account in, which is another user's: it finds its data, and makes
// its socket.
func (b *sandbox) open(a server.Account) error {
	for _, dir := range []string{b.s.dir, b.dir} {
		if err := os.Lchown(dir, -1, int(a.GID)); err != nil {
			return err
		}
	}
	return os.Lchown(b.run(), int(a.UID), int(a.GID))
}

// tearDown ends what runs in the sandbox and removes it; what it finds running is left
// over. An error names what stays.
func (b *sandbox) tearDown() ([]evidence.LeftOver, error) {
	found, err := b.s.clean(b.dir, b.mark)
	if err != nil {
		return []evidence.LeftOver{{What: "sandbox", Where: b.dir}}, fmt.Errorf("remove sandbox %s: %w", b.dir, err)
	}
	return found[:len(found)-1], nil // the sandbox itself is no left-over
}
