package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
)

// VersionMin is the oldest major version whose replication commands are spoken.
const VersionMin = 15

// Config says which server to connect to, and how.
type Config struct {
	// Conn is a connection string as libpq takes it, "host=/run/postgresql
	// user=tidegate sslmode=verify-full" or postgres://; PGPASSFILE and the other
	// PG variables of the environment fill what it leaves out. It must not ask for
	// target_session_attrs: a replication connection cannot ask the server.
	Conn string

	Database        string        // for a [SQL] session; empty is the one of Conn
	ApplicationName string        // what synchronous_standby_names and pg_stat_replication call us; required
	System          uint64        // system identifier that the server must have; 0 takes any
	ConnectTimeout  time.Duration // of every address of Conn that is tried, unless Conn says connect_timeout; 0 is 10 s
	SilenceMax      time.Duration // without a word from a server that streams, before it counts as gone; 0 is 30 s
}

// SetDefaults returns c with what was left out.
func (c Config) SetDefaults() Config {
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second // a handshake with TLS takes four round trips
	}
	if c.SilenceMax == 0 {
		c.SilenceMax = 30 * time.Second // half of the server's own patience, wal_sender_timeout
	}
	return c
}

// Validate reports every rule that c breaks.
func (c Config) Validate() error {
	var errs []error
	if c.ApplicationName == "" {
		errs = append(errs, errors.New("application name: want one"))
	}
	if len(c.ApplicationName) > 63 {
		errs = append(errs, fmt.Errorf("application name: want at most 63 bytes, which is where servers cut it (got %d)", len(c.ApplicationName)))
	}
	if c.ConnectTimeout < 0 || c.SilenceMax < 0 {
		errs = append(errs, errors.New("connect timeout and silence max: want none below 0"))
	}
	if parsed, err := pgconn.ParseConfig(c.Conn); err != nil {
		errs = append(errs, err) // pgconn leaves the password out
	} else if parsed.ValidateConnect != nil {
		errs = append(errs, errors.New("conn: target_session_attrs: a replication connection cannot ask for it"))
	}
	return errors.Join(errs...)
}

// Conn is a replication connection that is not streaming. For one goroutine at a
// time; after [Conn.Start] only Close may be called.
type Conn struct {
	cfg     Config
	pg      *pgconn.PgConn
	target  string // user@host:port, for messages
	version int    // major
	text    string // server_version as the server says it
}

// Connect opens a replication connection (physical: without a database) and makes
// sure that the server is new enough and of the system that cfg names. ctx bounds
// this call only. Errors wrap [ErrPassword], [ErrRights], [ErrCertificate],
// [ErrTooMany], [ErrNotReady], [ErrSystem], tidegate.ErrUnsupported, or are
// transient failures of the network.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	cfg = cfg.SetDefaults()
	pg, target, err := dial(ctx, cfg, map[string]string{"replication": "true"})
	if err != nil {
		return nil, err
	}
	c := &Conn{cfg: cfg, pg: pg, target: target, text: pg.ParameterStatus("server_version")}
	if err := c.greet(ctx); err != nil {
		_ = c.Close() // the refusal is what counts
		return nil, err
	}
	return c, nil
}

func (c *Conn) greet(ctx context.Context) error {
	var err error
	if c.version, err = major(c.text); err != nil {
		return c.fail("connect to", err)
	}
	if c.version < VersionMin {
		return &tidegate.Error{
			Op: "connect to", Subject: c.target, Class: tidegate.Misuse,
			Hint: fmt.Sprintf("upgrade the server to PostgreSQL %d or newer", VersionMin),
			Err:  fmt.Errorf("server version %s: %w", c.text, tidegate.ErrUnsupported),
		}
	}
	_, err = c.Identify(ctx)
	return err
}

// dial opens a connection with more run-time parameters; each of through may change
// how.
func dial(ctx context.Context, cfg Config, params map[string]string, through ...func(pgconn.DialFunc) pgconn.DialFunc) (*pgconn.PgConn, string, error) {
	if err := cfg.Validate(); err != nil {
		return nil, "", &tidegate.Error{Op: "connect to postgresql", Class: tidegate.Misuse, Err: err}
	}
	parsed, err := pgconn.ParseConfig(cfg.Conn)
	if err != nil {
		return nil, "", &tidegate.Error{Op: "connect to postgresql", Class: tidegate.Misuse, Err: err}
	}
	if parsed.ConnectTimeout == 0 {
		parsed.ConnectTimeout = cfg.ConnectTimeout
	}
	if cfg.Database != "" {
		parsed.Database = cfg.Database
	}
	parsed.DialFunc = (&net.Dialer{KeepAliveConfig: alive()}).DialContext
	for _, change := range through {
		parsed.DialFunc = change(parsed.DialFunc)
	}
	maps.Copy(parsed.RuntimeParams, params)
	parsed.RuntimeParams["application_name"] = cfg.ApplicationName
	target := fmt.Sprintf("%s@%s:%d", parsed.User, parsed.Host, parsed.Port)
	pg, err := pgconn.ConnectConfig(ctx, parsed)
	if err != nil {
		return nil, "", diagnose("connect to", target, err)
	}
	return pg, target, nil
}

// alive notices within 45 s that a server which owes us an answer is gone; without
// it a backup that waits for a checkpoint would wait for ever.
func alive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3}
}

// major reads "15.18 (Debian 15.18-0+deb12u1)", "18beta1" or "17devel".
func major(version string) (int, error) {
	digits := len(version) - len(strings.TrimLeft(version, "0123456789"))
	n, err := strconv.Atoi(version[:digits])
	if err != nil {
		return 0, fmt.Errorf("server version %q: want a number", version)
	}
	return n, nil
}

// Version is the server's major version.
func (c *Conn) Version() int { return c.version }

// VersionText is the server's version as it says it itself, "15.18 (Debian ...)".
func (c *Conn) VersionText() string { return c.text }

// Target is whom this connection was made to, "tidegate@db1:5432", for messages.
func (c *Conn) Target() string { return c.target }

// Close ends the connection; it does not wait for the server for long.
func (c *Conn) Close() error { return hangUp(c.pg) }

// hangUp says good-bye for at most a second.
func hangUp(pg *pgconn.PgConn) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return pg.Close(ctx)
}

// fail classifies the error of a command.
func (c *Conn) fail(op string, err error) error { return diagnose(op, c.target, err) }
