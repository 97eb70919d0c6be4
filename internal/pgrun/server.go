package pgrun

import (
	"context"
	"crypto/rand"
	"errors"
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
	Install   Install
	Name      string // "primary", "primary-replica": in messages
	Dir       string // the place; everything of the server is below it
	DataDir   string
	SocketDir string // trusts everybody
	Host      string // loopback address of its own; wants passwords
	Password  string // of the superuser over TCP

	cfg  Config
	proc *process
}

// New makes a cluster and starts its server. Beside an error nothing is left.
func New(cfg Config) (*Server, error) {
	return build("primary", cfg, func(s *Server) error {
		args := []string{"-U", Superuser, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"}
		if cfg.SegmentSizeMiB != 0 {
			args = append(args, "--wal-segsize="+strconv.Itoa(cfg.SegmentSizeMiB))
		}
		switch {
		case cfg.Checksums:
			args = append(args, "-k")
		case s.Install.Version >= 18: // which has them by itself
			args = append(args, "--no-data-checksums")
		}
		if err := s.Install.initdb(s.DataDir, args...); err != nil {
			return err
		}
		if err := s.configure(nil); err != nil {
			return err
		}
		if err := s.Start(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), startPatience)
		defer cancel()
		_, err := s.Query(ctx, "ALTER ROLE "+Superuser+" PASSWORD "+quote(s.Password))
		return err
	})
}

// build prepares a server and fills it, and leaves nothing when that fails.
func build(name string, cfg Config, fill func(*Server) error) (*Server, error) {
	s, err := prepare(name, cfg)
	if err == nil {
		err = fill(s)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make %s: %w", name, err), s.Close())
	}
	return s, nil
}

// prepare makes the place of a server that has no data directory yet. The server
// is there to be closed also beside an error.
func prepare(name string, cfg Config) (*Server, error) {
	s := &Server{Name: name, Password: cfg.Password, cfg: cfg}
	if s.Password == "" {
		s.Password = "secret"
	}
	var err error
	if s.Install, err = Find(); err != nil {
		return s, err
	}
	if s.Dir, err = s.Install.Place(); err != nil {
		return s, err
	}
	s.DataDir, s.SocketDir = filepath.Join(s.Dir, "data"), filepath.Join(s.Dir, "s")
	if s.Host, err = freeAddress(); err != nil {
		return s, err
	}
	if err := os.Mkdir(s.SocketDir, 0o755); err != nil {
		return s, err
	}
	if err := s.Install.Give(s.SocketDir, 0o755); err != nil {
		return s, err
	}
	return s, s.writeCertificate()
}

// freeAddress is a loopback address that nobody serves PostgreSQL on. The whole
// of 127/8 is this machine, so servers that run side by side do not race for ports.
func freeAddress() (string, error) {
	for range 100 {
		var b [3]byte
		if _, err := rand.Read(b[:]); err != nil {
			return "", fmt.Errorf("random: %w", err)
		}
		host := net.IPv4(127, b[0], b[1], 1+b[2]%250).String()
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(Port)))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return "", fmt.Errorf("listen: %w", err)
		}
		return host, nil
	}
	return "", errors.New("no free loopback address in 100 tries")
}

// configure writes postgresql.conf and pg_hba.conf. A replica gets its primary's.
func (s *Server) configure(more map[string]string) error {
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
		// Whoever starts servers here waits for reconnections; the default is 5 s.
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
	if err := s.Install.WriteFile(filepath.Join(s.DataDir, "postgresql.conf"), conf.String(), 0o600); err != nil {
		return err
	}
	hba := strings.Join(append(slices.Clone(s.cfg.HBA),
		"local all all trust",
		"local replication all trust",
		"host all all 127.0.0.0/8 scram-sha-256",
		"host replication all 127.0.0.0/8 scram-sha-256"), "\n") + "\n"
	return s.Install.WriteFile(filepath.Join(s.DataDir, "pg_hba.conf"), hba, 0o600)
}

// quote is s as a literal of SQL and of postgresql.conf.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Start starts the server and waits until it accepts connections (a standby:
// read-only ones). It must not be running.
func (s *Server) Start() error {
	if err := s.Launch(); err != nil {
		return err
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
		return fmt.Errorf("start %s: %w\n%s", s.Name, err, s.Tail(40))
	}
	return nil
}

// Launch starts the server and does not wait: for servers that are meant to fail.
// [Server.Exited] tells that it ended.
func (s *Server) Launch() error {
	if s.Running() {
		return fmt.Errorf("start %s: it is running", s.Name)
	}
	logFile, err := os.OpenFile(s.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // the child holds its own descriptor
	cmd, err := s.Install.command(nil, "postgres", "-D", s.DataDir)
	if err != nil {
		return err
	}
	// The server must come from the directory that made the cluster, whatever else is installed.
	cmd.Path = filepath.Join(s.Install.BinDir, "postgres")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	p := &process{cmd: cmd, done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
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
func (s *Server) Signal(how Shutdown) error {
	if !s.Running() {
		return fmt.Errorf("stop %s: it is not running", s.Name)
	}
	if err := s.proc.cmd.Process.Signal(syscall.Signal(how)); err != nil {
		return fmt.Errorf("stop %s: %w", s.Name, err)
	}
	return nil
}

// Stop stops the server and waits.
func (s *Server) Stop(how Shutdown) error {
	if err := s.Signal(how); err != nil {
		return err
	}
	select {
	case <-s.proc.done:
		return nil
	case <-time.After(startPatience):
		return fmt.Errorf("stop %s: it still runs after %s\n%s", s.Name, startPatience, s.Tail(40))
	}
}

// Kill ends the server and all its backends with SIGKILL and waits for them:
// after it, the data directory is that of a machine whose processes vanished.
func (s *Server) Kill() error {
	if !s.Running() {
		return fmt.Errorf("kill %s: it is not running", s.Name)
	}
	if err := s.killAll(); err != nil {
		return fmt.Errorf("kill %s: %w", s.Name, err)
	}
	return nil
}

// Freeze stops every process of the server in its tracks (SIGSTOP), or lets them
// go on.
func (s *Server) Freeze(frozen bool) error {
	sig := syscall.SIGCONT
	if frozen {
		sig = syscall.SIGSTOP
	}
	pid := s.PID()
	children, err := childrenOf(pid)
	if err != nil {
		return fmt.Errorf("freeze %s: %w", s.Name, err)
	}
	for _, p := range append([]int{pid}, children...) {
		if err := syscall.Kill(p, sig); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("freeze %s: process %d: %w", s.Name, p, err)
		}
	}
	return nil
}

// Close ends the server, the gentle way first because it alone gives back the
// shared memory, and removes its place. It may be called again.
func (s *Server) Close() error {
	if s.Dir == "" {
		return nil
	}
	var errs []error
	if s.Running() {
		errs = append(errs, s.Freeze(false)) // a frozen server hears nothing
		if err := syscall.Kill(s.PID(), syscall.SIGQUIT); err != nil && err != syscall.ESRCH {
			errs = append(errs, err)
		}
		select {
		case <-s.proc.done:
		case <-time.After(10 * time.Second):
			errs = append(errs, s.killAll())
		}
	}
	s.freeSharedMemory()
	errs = append(errs, os.RemoveAll(s.Dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end %s: %w", s.Name, err)
	}
	return nil
}
