package server

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Config is where a server is and how it runs.
type Config struct {
	// Home is the server's directory, absolute. It is made if missing.
	Home string
	// Data is the data directory of a server that somebody else made, as a primary
	// that is to become a follower; absolute, on any file system. Empty is the home's
	// own. A base is restored into, and moved aside from, a home's own only.
	Data string
	// BinDir holds postgres and pg_rewind of the base's major version, absolute.
	BinDir string
	// Account runs the server. Nil is the user of this process, which must not be
	// root then; another account needs this process to be root.
	Account *Account
	// Command is put before the path of postgres, as in "systemd-run --scope"; it
	// must start what follows it and may end or stay.
	Command []string
	// Service starts and stops the server instead of this package.
	Service Service

	// Name is cluster_name and the application_name upstream. Default "tidegate".
	Name string
	// Upstream is where a follower takes its log.
	Upstream Upstream
	// Feedback tells the upstream which rows long reads here still need
	// (hot_standby_feedback).
	Feedback bool

	// Port is the server's. Default 5432.
	Port uint16
	// Listen is listen_addresses. Empty is none: only Unix sockets.
	Listen string
	// SocketDirs are directories for sockets beside home/run, absolute.
	SocketDirs []string
	// HBA are lines for pg_hba.conf, after the one that lets this process in. For a
	// base without the file (Debian keeps it in /etc) the default is a password
	// (SCRAM) from everywhere; for a base that has one, its own lines.
	HBA []string
	// Build makes a configuration although the base has one. A base without one
	// always gets one built.
	Build bool
	// Settings are the operator's for this node, by name in lower case. They win
	// over the base's; what this package sets for safety wins over them, and
	// setting such a name is an error.
	Settings map[string]string
	// Final are settings on the server's command line: neither a file of the base's nor
	// ALTER SYSTEM wins over them, and of what this package sets they replace what they name.
	Final map[string]string
	// Environment are variables of the server's processes, as NAME=value, beside the few
	// that they always have.
	Environment []string

	// User and Database are for this process's own connections; User must be a
	// superuser that the base has. Default "postgres", both.
	User     string
	Database string

	// StopTimeout bounds a fast stop before it becomes an immediate one, and how long
	// Service.Start may take until the server has its place. Default 1 min.
	StopTimeout time.Duration
	// LogBytesMax is the size at which the server's log file begins anew; one
	// older file is kept. Default 64 MiB.
	LogBytesMax int64
}

// Account is a user of the system.
type Account struct {
	UID uint32
	GID uint32
}

// Upstream is a Unix socket that speaks the replication protocol.
type Upstream struct {
	SocketDir string // absolute
	Port      uint16 // a part of the socket's name. Default 5432
}

// SetDefaults returns c with the defaults that its fields name.
func (c Config) SetDefaults() Config {
	if c.Name == "" {
		c.Name = "tidegate"
	}
	if c.Upstream.Port == 0 {
		c.Upstream.Port = 5432
	}
	if c.Port == 0 {
		c.Port = 5432
	}
	if c.User == "" {
		c.User = "postgres"
	}
	if c.Database == "" {
		c.Database = "postgres"
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = time.Minute
	}
	if c.LogBytesMax == 0 {
		c.LogBytesMax = 64 << 20
	}
	return c
}

// socketPathMax is what fits sockaddr_un.sun_path with its closing NUL.
const socketPathMax = 107

var (
	namePattern    = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	settingPattern = regexp.MustCompile(`^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$`)
)

// Validate reports every broken rule.
func (c Config) Validate() error {
	var errs []error
	bad := func(key, rule string, got any) { errs = append(errs, fmt.Errorf("%s: %s (got %q)", key, rule, got)) }
	absolute := func(key, path string) {
		if !filepath.IsAbs(path) || strings.ContainsAny(path, "\n\r\x00") {
			bad(key, "want an absolute path", path)
		}
	}
	// unix_socket_directories is a list: a comma would end a name.
	socketDir := func(key, dir string, port uint16) {
		absolute(key, dir)
		if strings.ContainsAny(dir, ",\"") {
			bad(key, "want no comma and no quote in a socket's directory", dir)
		}
		if path := socketPath(dir, port); len(path) > socketPathMax {
			bad(key, fmt.Sprintf("want a socket path of at most %d bytes, has %d", socketPathMax, len(path)), path)
		}
	}
	absolute("home", c.Home)
	absolute("bin_dir", c.BinDir)
	if c.Data != "" {
		absolute("data", c.Data)
	}
	socketDir("home", filepath.Join(c.Home, runDir), c.Port)
	socketDir("upstream.socket_dir", c.Upstream.SocketDir, c.Upstream.Port)
	for _, dir := range c.SocketDirs {
		socketDir("socket_dirs", dir, c.Port)
	}
	if !namePattern.MatchString(c.Name) {
		bad("name", "want 1 to 63 of a-z, 0-9, '_' and '-', beginning with a letter", c.Name)
	}
	if c.StopTimeout < time.Second {
		bad("stop_timeout", "want 1s or more", c.StopTimeout.String())
	}
	if c.LogBytesMax < 1<<20 {
		bad("log_bytes_max", "want 1 MiB or more", fmt.Sprint(c.LogBytesMax))
	}
	c.Service.validate(bad)
	if c.managed() && len(c.Command) > 0 {
		bad("server", "want no command where programs start the server", strings.Join(c.Command, " "))
	}
	for _, line := range c.HBA {
		if strings.ContainsAny(line, "\n\r\x00") {
			bad("hba", "want one line an entry", line)
		}
	}
	for name, value := range c.Final {
		if !settingPattern.MatchString(name) || strings.ContainsAny(value, "\n\r\x00") {
			bad("final", "want the name of a setting in lower case, and one line", name+"="+value)
		}
	}
	for name, value := range c.Settings {
		switch {
		case !settingPattern.MatchString(name):
			bad("settings", "want the name of a setting in lower case", name)
		case reserved()[name]:
			bad("settings."+name, "is set by tidegate", value)
		case strings.ContainsAny(value, "\n\r\x00"):
			bad("settings."+name, "want one line", value)
		}
	}
	return errors.Join(errs...)
}

func socketPath(dir string, port uint16) string {
	return filepath.Join(dir, fmt.Sprintf(".s.PGSQL.%d", port))
}
