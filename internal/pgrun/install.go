package pgrun

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Install is where the binaries are and who may run the server.
type Install struct {
	BinDir  string // holds initdb and postgres
	Version int    // major: 15
	Account Account
}

// Account is the user that runs servers and tools.
type Account struct {
	Name string // also the superuser's name in every cluster: "postgres" whatever the account is called
	UID  uint32
	GID  uint32
	Self bool // it is the user that runs this process
}

// needed ends errors about what is not installed.
const needed = "run: sudo apt-get install postgresql postgresql-contrib (or tools/needs)"

// Find looks for PostgreSQL and for the account.
func Find() (Install, error) {
	in, err := find()
	if err != nil {
		return in, fmt.Errorf("postgresql: %w; %s", err, needed)
	}
	return in, nil
}

func find() (Install, error) {
	dirs := binDirs()
	var in Install
	for _, dir := range dirs {
		if isTool(dir, "initdb") && isTool(dir, "postgres") {
			in.BinDir = dir
			break
		}
	}
	if in.BinDir == "" {
		return in, fmt.Errorf("no initdb and postgres in %s", strings.Join(dirs, ", "))
	}
	out, err := exec.Command(filepath.Join(in.BinDir, "postgres"), "--version").Output()
	if err != nil {
		return in, fmt.Errorf("postgres --version: %w", err)
	}
	// "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return in, fmt.Errorf("postgres --version says %q", out)
	}
	major, _, _ := strings.Cut(fields[2], ".")
	if in.Version, err = strconv.Atoi(major); err != nil {
		return in, fmt.Errorf("postgres --version says %q: %w", out, err)
	}
	in.Account, err = account()
	return in, err
}

// binDirs are the directories to look in, the best first: what the environment
// names, Debian's newest, and what is on the PATH.
func binDirs() []string {
	var dirs []string
	if dir := os.Getenv("TIDEGATE_PG_BIN"); dir != "" {
		dirs = append(dirs, dir)
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	major := func(dir string) int {
		n, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err != nil {
			return 0
		}
		return n
	}
	slices.SortFunc(debian, func(a, b string) int { return major(b) - major(a) })
	dirs = append(dirs, debian...)
	if path, err := exec.LookPath("initdb"); err == nil {
		// Distributions put links on the PATH; the server looks for its files beside itself.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		dirs = append(dirs, filepath.Dir(path))
	}
	return dirs
}

func isTool(dir, name string) bool {
	info, err := os.Stat(filepath.Join(dir, name))
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

// account is the user himself, unless he is root.
func account() (Account, error) {
	if os.Getuid() != 0 {
		me, err := user.Current()
		if err != nil {
			return Account{}, fmt.Errorf("who runs this: %w", err)
		}
		return Account{Name: me.Username, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Self: true}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return Account{}, fmt.Errorf("account %s: uid %q: %w", name, u.Uid, err)
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return Account{}, fmt.Errorf("account %s: gid %q: %w", name, u.Gid, err)
		}
		return Account{Name: name, UID: uint32(uid), GID: uint32(gid)}, nil
	}
	return Account{}, fmt.Errorf("this runs as root, whom PostgreSQL refuses, and there is neither postgres nor nobody in /etc/passwd")
}

// clients are the programs that speak SQL alone: those of another release will do.
// Every other one reads a server's files or its replication, and refuses a release
// that is newer than itself, or misreads it.
var clients = []string{"psql", "pgbench", "pg_amcheck"}

// Tool is the path of one of PostgreSQL's programs. Beside a bare server, as some
// packages have it, it is the system's, where it need not be of the same release.
func (in Install) Tool(name string) (string, error) {
	if isTool(in.BinDir, name) {
		return filepath.Join(in.BinDir, name), nil
	}
	if !slices.Contains(clients, name) {
		return "", fmt.Errorf("%s of PostgreSQL %d: not in %s, and that of another release would not do; "+
			"install the whole of it, and name its directory in TIDEGATE_PG_BIN", name, in.Version, in.BinDir)
	}
	for _, dir := range binDirs() {
		if isTool(dir, name) {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("%s: not found; %s", name, needed)
}

// SysProcAttr starts a process as the account, to be killed with this process.
func (in Install) SysProcAttr() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if !in.Account.Self {
		attr.Credential = &syscall.Credential{Uid: in.Account.UID, Gid: in.Account.GID}
	}
	return attr
}

// Place makes a directory that the account owns, with a path short enough for
// sockets. It is the caller's to remove.
func (in Install) Place() (string, error) {
	dir, err := os.MkdirTemp("/tmp", "pgrun-") // a temporary directory of the caller's may be closed to the account
	if err != nil {
		return "", fmt.Errorf("place: %w", err)
	}
	return dir, in.Give(dir, 0o755)
}

// Give makes the account the owner of path.
func (in Install) Give(path string, mode os.FileMode) error {
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("give: %w", err)
	}
	if err := os.Chown(path, int(in.Account.UID), int(in.Account.GID)); err != nil {
		return fmt.Errorf("give: %w", err)
	}
	return nil
}

// WriteFile writes a file that belongs to the account.
func (in Install) WriteFile(path, content string, mode os.FileMode) error {
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return in.Give(path, mode)
}
