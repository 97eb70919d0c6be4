package replication

import (
	"context"
	"strings"
)

// SetStandbyNames sets synchronous_standby_names by ALTER SYSTEM and has the
// configuration read again; names is the setting's text, "" for nobody. Backends
// obey it shortly after, also those that wait already. The role needs to be a
// superuser, or GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names and
// GRANT EXECUTE ON FUNCTION pg_reload_conf; without them [ErrRights].
func (s *SQL) SetStandbyNames(ctx context.Context, names string) error {
	const op = "set synchronous_standby_names of"
	// ALTER SYSTEM takes no parameters, and must not be in a transaction with others.
	quoted := "'" + strings.ReplaceAll(names, "'", "''") + "'"
	if _, err := s.query(ctx, op, "ALTER SYSTEM SET synchronous_standby_names = "+quoted); err != nil {
		return err
	}
	_, err := s.query(ctx, op, "SELECT pg_reload_conf()")
	return err
}
