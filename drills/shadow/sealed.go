package shadow

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

// sealedSettings are on the command line of a clone's server, where nothing that its base
// brings along wins over them: by which it could reach beyond the sandbox by itself, or be
// reached. What a session does that is asked something, as by dblink or a foreign table,
// no setting stops.
var sealedSettings = map[string]string{
	"listen_addresses": "", "bonjour": "off", "ssl": "off", "ssl_passphrase_command": "",
	"primary_conninfo": "", "primary_slot_name": "", "synchronous_standby_names": "",
	"archive_mode": "off", "archive_command": "", "restore_command": "", "archive_cleanup_command": "", "recovery_end_command": "",
	"max_logical_replication_workers": "0", // a subscription of the base's would go on, under its own name
	// Libraries start workers of their own: jobs would run twice.
	"shared_preload_libraries": "", "session_preload_libraries": "", "local_preload_libraries": "",
	"log_destination": "stderr", "logging_collector": "off",
	// The log is laid by the drill: it must be seen soon, and no old segment take a new one's place.
	"wal_retrieve_retry_interval": "20ms", "wal_recycle": "off",
}

// preload is the one of them that an operator may set: some clusters do not start without.
const preload = "shared_preload_libraries"

// workers are libraries whose own workers act by themselves: in a promoted clone they would
// run the source's jobs again, or reach its peers. No server needs them to start.
var workers = []string{"pg_cron", "pg_partman_bgw", "pglogical", "bdr", "spock", "repmgr", "pg_failover_slots", "pgagent"}

// workersIn are those that a value of [preload] names.
func workersIn(value string) (found []string) {
	for name := range strings.SplitSeq(value, ",") {
		if name = filepath.Base(strings.TrimSuffix(strings.Trim(strings.TrimSpace(name), `"'`), ".so")); slices.Contains(workers, name) {
			found = append(found, name)
		}
	}
	return found
}

// sealed are the settings of this clone.
func (c *cluster) sealed() map[string]string {
	out := maps.Clone(sealedSettings)
	if libraries, is := c.d.cfg.Postgres.Settings[preload]; is {
		out[preload] = libraries
	}
	return out
}

// sealedIn asks a server whether the settings are what they must be, and whether its
// sockets lie in the sandbox.
func sealedIn(ctx context.Context, srv *server.Server, b *sandbox, want map[string]string) ([]evidence.Check, error) {
	names := slices.Sorted(maps.Keys(want))
	rows, err := query(ctx, srv, "select name, setting, source from pg_settings where name = any(string_to_array('"+strings.Join(names, " ")+" unix_socket_directories', ' '))")
	if err != nil {
		return nil, err
	}
	settings := evidence.Check{
		Name: "server's settings", Kind: "isolation", Outcome: evidence.CheckPassed,
		Wanted: fmt.Sprintf("on its command line, so that nothing in the base wins: %s", strings.Join(names, ", ")),
	}
	sockets := evidence.Check{Name: "server's sockets", Kind: "isolation", Wanted: "in the sandbox, and nowhere else", Outcome: evidence.CheckUnknown, Why: "the server does not say"}
	var wrong []string
	seen := 0
	for _, row := range rows {
		name, value, source := row[0], row[1], row[2]
		if name == "unix_socket_directories" {
			sockets.Got, sockets.Why, sockets.Outcome = &value, "", evidence.CheckPassed
			for dir := range strings.SplitSeq(value, ",") {
				if !strings.HasPrefix(strings.Trim(strings.TrimSpace(dir), `"`), b.dir+"/") {
					sockets.Outcome, sockets.Why = evidence.CheckFailed, dir+" lies elsewhere"
				}
			}
			continue
		}
		seen++
		if source != "command line" {
			wrong = append(wrong, fmt.Sprintf("%s is %q, from %s", name, value, source))
		}
	}
	switch {
	case len(wrong) > 0:
		settings.Outcome, settings.Why = evidence.CheckFailed, strings.Join(wrong, "; ")
	case seen < len(names):
		settings.Outcome, settings.Why = evidence.CheckFailed, fmt.Sprintf("the server says %d of %d", seen, len(names))
	}
	sessions, err := sessionsOf(ctx, srv)
	return []evidence.Check{settings, sockets, sessions}, err
}

// sessionsOf looks for what ranks above the command line: the settings of a role's or a
// database's sessions. Of the sealed ones those can be set so that name libraries.
func sessionsOf(ctx context.Context, srv *server.Server) (evidence.Check, error) {
	c := evidence.Check{
		Name: "sessions' libraries", Kind: "isolation", Outcome: evidence.CheckPassed,
		Wanted: "no role and no database has its sessions load any (ALTER ROLE or ALTER DATABASE ... SET ..._preload_libraries)",
	}
	rows, err := query(ctx, srv, "select coalesce(r.rolname, 'all roles'), coalesce(d.datname, 'all databases'), one from pg_db_role_setting s"+
		" left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase cross join unnest(s.setconfig) one"+
		" where one ~ '^(session|local)_preload_libraries=.' order by 1, 2, 3")
	if err != nil || len(rows) == 0 {
		return c, err
	}
	var all []string
	for _, row := range rows {
		all = append(all, fmt.Sprintf("of %s in %s: %s", row[0], row[1], row[2]))
	}
	c.Got = new(strings.Join(all, "; "))
	c.Outcome, c.Why = evidence.CheckUnknown, "what these do in a session of the clone nobody here knows"
	return c, nil
}

// query asks one statement of this package's own; NULL is the empty text.
func query(ctx context.Context, srv *server.Server, sql string) (rows [][]string, err error) {
	conn, err := pgconn.Connect(ctx, srv.Conninfo()+" application_name=tidegate-drill")
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }() // it was only asked
	res, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	for _, row := range res[len(res)-1].Rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = string(cell)
		}
		rows = append(rows, cells)
	}
	return rows, nil
}
