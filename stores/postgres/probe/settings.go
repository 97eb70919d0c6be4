package probe

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/internal/config"
)

// Kind is the kind's name, in a gate's file.
const Kind = "postgres"

// Settings are the kind's own section of a probe in a gate's file.
type Settings struct {
	// Conn is how clients reach the service through its route, as libpq takes it,
	// without a password: that comes from a passfile or from the PG variables of the
	// environment.
	Conn string `yaml:"conn"`
	// Table is the canary, schema and name.
	Table string `yaml:"table"`
	// SynchronousCommit is what the write waits for; "" leaves it to the server, which
	// knows the role. Levels at which clients do not wait for the other site are refused:
	// such a write would prove less than clients need.
	SynchronousCommit string `yaml:"synchronous_commit"`
}

// DefaultTable is the canary of [Setup].
const DefaultTable = "tidegate.canary"

// Setup makes the canary and the least rights for it, in the database that Conn
// names; "tidegate_probe" is a role that can log in.
const Setup = `CREATE SCHEMA tidegate;
CREATE TABLE tidegate.canary (gate text PRIMARY KEY, epoch bigint NOT NULL, n bigint NOT NULL, at timestamptz NOT NULL) WITH (fillfactor = 10);
GRANT USAGE ON SCHEMA tidegate TO tidegate_probe;
GRANT SELECT, INSERT, UPDATE ON tidegate.canary TO tidegate_probe;`

// SetDefaults returns s with every unset key at its default.
func (s Settings) SetDefaults() Settings {
	if s.Table == "" {
		s.Table = DefaultTable
	}
	return s
}

var (
	// A table's name needs no quotes.
	tableName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}\.[a-z_][a-z0-9_]{0,62}$`)
	// passwordKey finds a password among keywords and values, where a value may be quoted.
	passwordKey = regexp.MustCompile(`(?i)(^|[\s'])password\s*=`)
)

// levels are what a client waits for the other site by.
var levels = []string{"on", "remote_write", "remote_apply"}

// Validate reports every broken rule.
func (s Settings) Validate() error {
	var all []error
	parsed, err := pgconn.ParseConfig(s.Conn)
	switch {
	case s.Conn == "":
		all = append(all, config.Broken("conn", "want a connection string such as host=route1.example user=tidegate_probe dbname=postgres", s.Conn))
	case HasPassword(s.Conn):
		all = append(all, config.Broken("conn", "want no password here: name a file, passfile=/etc/tidegate/pgpass", "one with a password"))
	case err != nil:
		all = append(all, config.Broken("conn", "want a connection string ("+err.Error()+")", "one that is not")) // pgconn leaves the password out
	case parsed.RuntimeParams["replication"] != "":
		all = append(all, config.Broken("conn", "want an ordinary connection, as clients make it", "a replication connection"))
	}
	if !tableName.MatchString(s.Table) {
		all = append(all, config.Broken("table", "want schema.table of a-z, 0-9 and _", s.Table))
	}
	if s.SynchronousCommit != "" {
		ok := false
		for _, l := range levels {
			ok = ok || s.SynchronousCommit == l
		}
		if !ok {
			all = append(all, config.Broken("synchronous_commit", fmt.Sprintf("want one of %s, or nothing for what the server has for the role", strings.Join(levels, ", ")), s.SynchronousCommit))
		}
	}
	return errors.Join(all...)
}

// HasPassword reports whether a connection string holds a password in either form.
func HasPassword(conn string) bool {
	if strings.HasPrefix(conn, "postgres://") || strings.HasPrefix(conn, "postgresql://") {
		u, err := url.Parse(conn)
		if err != nil {
			return strings.Contains(conn, "@") // it cannot be told, and is refused for its form anyway
		}
		_, has := u.User.Password()
		return has || u.Query().Has("password")
	}
	return passwordKey.MatchString(conn)
}
