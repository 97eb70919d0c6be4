package shadow

import (
	"context"
	"fmt"
	"maps"
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
	return []evidence.Check{settings, sockets}, nil
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
