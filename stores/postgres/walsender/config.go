package walsender

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// socketPathMax is what fits sockaddr_un.sun_path with its closing NUL.
const socketPathMax = 107

// Config says where a server listens and what it allows.
type Config struct {
	// Directory holds the socket. It must exist and be closed to everybody but
	// its owner and group: entering it is the permission to read all log.
	Directory string
	// Port is but a part of the socket's name, as in PostgreSQL. Default 5432.
	Port uint16
	// SessionsMax bounds the connections at one time, as max_wal_senders does.
	// Default 10.
	SessionsMax int
	// KeepaliveEvery is the longest silence while nothing is sent. Default 10 s:
	// a walreceiver gives up after 60 s (wal_receiver_timeout).
	KeepaliveEvery time.Duration
	// HandshakeTimeout bounds the time from connecting to the end of the
	// start-up message. Default 10 s.
	HandshakeTimeout time.Duration
	// CloseTimeout bounds what a session still says to a receiver when Run ends:
	// the rest of a range, and goodbye. Default 500 ms.
	CloseTimeout time.Duration
}

// SetDefaults returns c with its zero values filled in.
func (c Config) SetDefaults() Config {
	if c.Port == 0 {
		c.Port = 5432
	}
	if c.SessionsMax == 0 {
		c.SessionsMax = 10
	}
	if c.KeepaliveEvery == 0 {
		c.KeepaliveEvery = 10 * time.Second
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = 10 * time.Second
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = 500 * time.Millisecond
	}
	return c
}

// Validate returns all broken rules at once.
func (c Config) Validate() error {
	var errs []error
	if !filepath.IsAbs(c.Directory) {
		errs = append(errs, fmt.Errorf("directory: must be an absolute path (got %q)", c.Directory))
	}
	if n := len(c.Socket()); n > socketPathMax {
		errs = append(errs, fmt.Errorf("directory: the socket's path must have at most %d bytes (got %d: %s)", socketPathMax, n, c.Socket()))
	}
	if c.SessionsMax < 1 {
		errs = append(errs, fmt.Errorf("sessions_max: must be positive (got %d)", c.SessionsMax))
	}
	for _, d := range []struct {
		name string
		is   time.Duration
	}{{"keepalive_every", c.KeepaliveEvery}, {"handshake_timeout", c.HandshakeTimeout}, {"close_timeout", c.CloseTimeout}} {
		if d.is <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be positive (got %s)", d.name, d.is))
		}
	}
	return errors.Join(errs...)
}

// Socket returns the path that libpq makes of Directory and Port.
func (c Config) Socket() string {
	return filepath.Join(c.Directory, fmt.Sprintf(".s.PGSQL.%d", c.Port))
}

// ConnInfo returns the connection string of a receiver that calls itself by the
// given application name: the value of primary_conninfo, before it is quoted
// for postgresql.conf.
func (c Config) ConnInfo(application string) string {
	return fmt.Sprintf("host=%s port=%d user=tidegate application_name=%s sslmode=disable gssencmode=disable",
		quote(c.Directory), c.Port, quote(application))
}

// quote writes a value as libpq's connection strings want it.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
