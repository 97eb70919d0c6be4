package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Port is every server's port; servers differ by address and socket directory.
const Port = 5432

// Superuser is the superuser's name in every cluster.
const Superuser = "postgres"

// startPatience bounds how long a server may take to accept connections.
const startPatience = 60 * time.Second

// Config says what is special about a server; the zero value is a primary that
// replicas can follow.
type Config struct {
	Settings       map[string]string // of postgresql.conf; they win over this package's own
	SegmentSizeMiB int               // of WAL segments; 0 is PostgreSQL's own 16
	Checksums      bool              // of data pages
	Password       string            // the superuser's over TCP; "" is "secret"
	HBA            []string          // lines put before this package's own
}

// Server is one PostgreSQL cluster and the process that serves it.
type Server struct {
	Install
	Name      string // "primary", "replica1": in messages
	Dir       string // the place; everything of the server is below it
	DataDir   string
	SocketDir string // trusts everybody
	Host      string // loopback address of its own; wants passwords
	Password  string // of the superuser over TCP

	cfg  Config
	proc *process
}

// New makes a cluster and starts its server.
func New(tb testing.TB, cfg Config) *Server {
	tb.Helper()
	s := prepare(tb, "primary", cfg)
	args := []string{"-D", s.DataDir, "-U", Superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"}
	if cfg.SegmentSizeMiB != 0 {
		args = append(args, "--wal-segsize="+strconv.Itoa(cfg.SegmentSizeMiB))
	}
	if cfg.Checksums {
		args = append(args, "-k")
	}
	s.Run(tb, "initdb", args...)
	s.configure(tb, nil)
	s.Start(tb)
	s.SQL(tb, "ALTER ROLE "+Superuser+" PASSWORD "+quote(s.Password))
	return s
}

// prepare makes the place of a server that has no data directory yet.
func prepare(tb testing.TB, name string, cfg Config) *Server {
	tb.Helper()
	in := Find(tb)
	s := &Server{Install: in, Name: name, Dir: in.Place(tb), Password: cfg.Password, cfg: cfg, Host: freeAddress(tb)}
	if s.Password == "" {
		s.Password = "secret"
	}
	s.DataDir, s.SocketDir = filepath.Join(s.Dir, "data"), filepath.Join(s.Dir, "s")
	if err := os.Mkdir(s.SocketDir, 0o755); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	in.Give(tb, s.SocketDir, 0o755)
	s.writeCertificate(tb)
	tb.Cleanup(func() {
		s.end(tb)
		if tb.Failed() {
			tb.Logf("the last of %s's log:\n%s", s.Name, tail(s.Log(tb), 40))
		}
	})
	return s
}

// freeAddress is a loopback address that nobody serves PostgreSQL on. The whole
// of 127/8 is this machine, so servers of tests that run side by side do not
// race for ports.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		var b [3]byte
		if _, err := rand.Read(b[:]); err != nil {
			tb.Fatalf("random: %v", err)
		}
		host := net.IPv4(127, b[0], b[1], 1+b[2]%250).String()
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(Port)))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			tb.Fatalf("listen: %v", err)
		}
		return host
	}
	tb.Fatal("no free loopback address in 100 tries")
	return ""
}

// configure writes postgresql.conf and pg_hba.conf. A replica gets its primary's.
func (s *Server) configure(tb testing.TB, more map[string]string) {
	tb.Helper()
	set := map[string]string{
		"listen_addresses":        s.Host,
		"port":                    strconv.Itoa(Port),
		"unix_socket_directories": s.SocketDir,
		"ssl":                     "on",
		"ssl_cert_file":           filepath.Join(s.Dir, "server.crt"),
		"ssl_key_file":            filepath.Join(s.Dir, "server.key"),
		"password_encryption":     "scram-sha-256",
		"fsync":                   "off",
		"wal_level":               "replica",
		"max_wal_senders":         "10",
		"max_replication_slots":   "10",
		"hot_standby":             "on",
		"wal_keep_size":           "64MB",
		"shared_buffers":          "64MB",
		"max_connections":         "50",
		// Tests wait for reconnections; the default is 5 s.
		"wal_retrieve_retry_interval": "200ms",
		"log_line_prefix":             "%m [%p] %b ",
		"log_replication_commands":    "on",
		"lc_messages":                 "C",
		"timezone":                    "UTC",
		"autovacuum_naptime":          "10s",
	}
	maps.Copy(set, s.cfg.Settings)
	maps.Copy(set, more)
	var conf strings.Builder
	for _, name := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintf(&conf, "%s = %s\n", name, quote(set[name]))
	}
	s.WriteFile(tb, filepath.Join(s.DataDir, "postgresql.conf"), conf.String(), 0o600)
	hba := strings.Join(append(slices.Clone(s.cfg.HBA),
		"local all all trust",
		"local replication all trust",
		"host all all 127.0.0.0/8 scram-sha-256",
		"host replication all 127.0.0.0/8 scram-sha-256"), "\n") + "\n"
	s.WriteFile(tb, filepath.Join(s.DataDir, "pg_hba.conf"), hba, 0o600)
}

// WriteFile writes a file that belongs to the account.
func (in Install) WriteFile(tb testing.TB, path, content string, mode os.FileMode) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		tb.Fatalf("write file: %v", err)
	}
	in.Give(tb, path, mode)
}

// quote is s as a literal of SQL and of postgresql.conf.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Start starts the server and waits until it accepts connections (a standby:
// read-only ones). It must not be running.
func (s *Server) Start(tb testing.TB) {
	tb.Helper()
	if err := s.launch(tb); err != nil {
		tb.Fatalf("start %s: %v", s.Name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startPatience)
	defer cancel()
	err := Poll(ctx, func(ctx context.Context) error {
		select {
		case <-s.proc.done:
			return fatal{fmt.Errorf("it ended: %w", s.proc.err)}
		default:
		}
		_, err := s.Query(ctx, "SELECT 1")
		return err
	})
	if err != nil {
		tb.Fatalf("start %s: %v\n%s", s.Name, err, tail(s.Log(tb), 40))
	}
}

// Launch starts the server and does not wait: for servers that are meant to fail.
// [Server.Exited] tells that it ended.
func (s *Server) Launch(tb testing.TB) {
	tb.Helper()
	if err := s.launch(tb); err != nil {
		tb.Fatalf("start %s: %v", s.Name, err)
	}
}

func (s *Server) launch(tb testing.TB) error {
	tb.Helper()
	if s.Running() {
		return fmt.Errorf("it is running")
	}
	logFile, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // the child holds its own descriptor
	cmd := s.command(tb, nil, "postgres", "-D", s.DataDir)
	// The server must come from the directory that made the cluster, whatever else is installed.
	cmd.Path = filepath.Join(s.BinDir, "postgres")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	p := &process{cmd: cmd, done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.proc = p
	go p.reap() // owned by the server's process; ends when it is reaped
	return nil
}

// process is the postmaster.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been reaped
	err  error         // why it ended; valid once done is closed
}

func (p *process) reap() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// Running reports whether the server's process lives.
func (s *Server) Running() bool {
	if s.proc == nil {
		return false
	}
	select {
	case <-s.proc.done:
		return false
	default:
		return true
	}
}

// PID is the postmaster's process, 0 before the first start.
func (s *Server) PID() int {
	if s.proc == nil {
		return 0
	}
	return s.proc.cmd.Process.Pid
}

// Exited is closed when the process that runs now has ended.
func (s *Server) Exited() <-chan struct{} { return s.proc.done }

// Shutdown is a way to stop a server.
type Shutdown syscall.Signal

// The ways.
const (
	Smart     = Shutdown(syscall.SIGTERM) // waits for clients
	Fast      = Shutdown(syscall.SIGINT)  // ends sessions, writes a checkpoint, waits for walreceivers
	Immediate = Shutdown(syscall.SIGQUIT) // as a crash
)

// Signal sends the way's signal without waiting.
func (s *Server) Signal(tb testing.TB, how Shutdown) {
	tb.Helper()
	if !s.Running() {
		tb.Fatalf("stop %s: it is not running", s.Name)
	}
	if err := s.proc.cmd.Process.Signal(syscall.Signal(how)); err != nil {
		tb.Fatalf("stop %s: %v", s.Name, err)
	}
}

// Stop stops the server and waits.
func (s *Server) Stop(tb testing.TB, how Shutdown) {
	tb.Helper()
	s.Signal(tb, how)
	select {
	case <-s.proc.done:
	case <-time.After(startPatience):
		tb.Fatalf("stop %s: it still runs after %s\n%s", s.Name, startPatience, tail(s.Log(tb), 40))
	}
}

// Restart stops the server fast and starts it again.
func (s *Server) Restart(tb testing.TB) {
	tb.Helper()
	s.Stop(tb, Fast)
	s.Start(tb)
}

// Kill ends the server and all its backends with SIGKILL and waits for them:
// after it, the data directory is that of a machine whose processes vanished.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	if !s.Running() {
		tb.Fatalf("kill %s: it is not running", s.Name)
	}
	if err := s.killAll(); err != nil {
		tb.Fatalf("kill %s: %v", s.Name, err)
	}
}

// Freeze stops every process of the server in its tracks (SIGSTOP), or lets them
// go on.
func (s *Server) Freeze(tb testing.TB, frozen bool) {
	tb.Helper()
	sig := syscall.SIGCONT
	if frozen {
		sig = syscall.SIGSTOP
	}
	pid := s.PID()
	children, err := childrenOf(pid)
	if err != nil {
		tb.Fatalf("freeze %s: %v", s.Name, err)
	}
	for _, p := range append([]int{pid}, children...) {
		if err := syscall.Kill(p, sig); err != nil && err != syscall.ESRCH {
			tb.Fatalf("freeze %s: process %d: %v", s.Name, p, err)
		}
	}
}

// end stops the server at the end of the test, the gentle way first because it
// alone gives back the shared memory.
func (s *Server) end(tb testing.TB) {
	tb.Helper()
	if s.Running() {
		s.Freeze(tb, false) // a frozen server hears nothing
		if err := syscall.Kill(s.PID(), syscall.SIGQUIT); err != nil && err != syscall.ESRCH {
			tb.Errorf("end %s: %v", s.Name, err)
		}
		select {
		case <-s.proc.done:
		case <-time.After(10 * time.Second):
			if err := s.killAll(); err != nil {
				tb.Errorf("end %s: %v", s.Name, err)
			}
		}
	}
	s.freeSharedMemory()
}
