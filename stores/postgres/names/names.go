package names

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

// Driver sets the names. Outcomes of Set: nil, the setting's owner has taken them and
// they will be in force, soon; an error, and nobody knows. It may be repeated with the
// same names, which changes nothing. sql is a session with the server, which a driver
// need not use.
type Driver interface {
	Set(ctx context.Context, sql *replication.SQL, names string) error
}

// New makes the driver that a valid cfg, with its defaults, names; nil for none. No I/O.
func New(cfg Config) (Driver, error) {
	switch cfg.Driver {
	case "":
		return nil, nil //nolint:nilnil // none is what was asked for
	case AlterSystem:
		return alterSystem{}, nil
	case Patroni:
		return &patroni{cfg: cfg.Patroni, timeout: cfg.Timeout}, nil
	case Exec:
		return program{cfg: cfg.Exec, timeout: cfg.Timeout}, nil
	}
	return nil, &tidegate.Error{Op: "make driver of names", Subject: cfg.Driver, Class: tidegate.Misuse, Err: tidegate.ErrUnsupported}
}

type alterSystem struct{}

// Set implements [Driver].
func (alterSystem) Set(ctx context.Context, sql *replication.SQL, names string) error {
	err := sql.SetStandbyNames(ctx, names)
	if errors.Is(err, replication.ErrRights) {
		return failed(AlterSystem, tidegate.Misuse,
			"GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO <role>; GRANT EXECUTE ON FUNCTION pg_reload_conf TO <role>; before PostgreSQL 15 only superusers may", "%w", err)
	}
	return err
}

// failed makes a driver's error.
func failed(driver string, class tidegate.Class, hint, format string, args ...any) error {
	return &tidegate.Error{Op: "set synchronous_standby_names by", Subject: driver, Class: class, Hint: hint, Err: fmt.Errorf(format, args...)}
}
