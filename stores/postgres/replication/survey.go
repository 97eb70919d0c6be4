package replication

import (
	"context"
	"fmt"
	"strings"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// surveyed are the settings of a [Survey].
var surveyed = []string{
	"archive_mode", "data_checksums", "data_directory", "fsync", "full_page_writes",
	"idle_replication_slot_timeout", "max_slot_wal_keep_size", "server_version_num", "synchronous_commit", "synchronous_standby_names", "wal_keep_size", "wal_level",
}

// Survey is what a server says of itself that tells how well it can be protected,
// and for how long it can do without us.
type Survey struct {
	InRecovery bool
	Settings   map[string]string // as of [SQL.Settings]; without what the role is not shown
	End        wal.LSN           // a primary's flushed log; a standby's, replayed
	LogBytes   int64             // in pg_wal; -1 when the role may not see it
	Beside     bool              // asked over a Unix socket: the server's disks are this machine's
	Slots      []SlotState
	Unwaiting  []Unwaiting
	// Archiving failed last; empty when it did not, or nothing is archived.
	ArchiveFailed string
	Databases     []string // that take connections
}

// Unwaiting is somebody whose commits do not wait for standbys, by a setting that
// is kept in the server.
type Unwaiting struct {
	Role, Database, Subscription string // empty where it says nothing
	Level                        string // as it was set: off, local, false
}

func (u Unwaiting) String() string {
	var who []string
	for _, one := range []struct{ what, name string }{{"role", u.Role}, {"subscription", u.Subscription}, {"database", u.Database}} {
		if one.name != "" {
			who = append(who, one.what+" "+one.name)
		}
	}
	if len(who) == 0 {
		who = append(who, "everybody")
	}
	return strings.Join(who, " in ") + " at " + u.Level
}

// unwaitingLevels are what synchronous_commit takes for off and local (guc.c).
const unwaitingLevels = "('off', 'local', 'false', 'no', '0')"

// Survey asks a server, primary or standby, about itself.
func (s *SQL) Survey(ctx context.Context) (Survey, error) {
	v := Survey{Settings: map[string]string{}, LogBytes: -1}
	const op = "survey"
	rows, err := s.query(ctx, op, "SELECT name, setting FROM pg_settings WHERE name = ANY (string_to_array($1, ','))", strings.Join(surveyed, ","))
	if err != nil {
		return v, err
	}
	for _, row := range rows {
		if len(row) == 2 && !row[1].null {
			v.Settings[row[0].text] = row[1].text
		}
	}
	rows, err = s.query(ctx, op, `SELECT r, CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, inet_server_addr() IS NULL,
		has_function_privilege('pg_ls_waldir()', 'EXECUTE') FROM pg_is_in_recovery() r`)
	if err != nil {
		return v, err
	}
	if len(rows) != 1 {
		return v, diagnose(op, s.target, fmt.Errorf("%d rows", len(rows)))
	}
	r := reader{v: rows[0]}
	v.InRecovery, v.End, v.Beside = r.yes(), r.lsn(), r.yes()
	may := r.yes()
	if r.err != nil {
		return v, diagnose(op, s.target, r.err)
	}
	if may {
		if v.LogBytes, err = s.count(ctx, op, "SELECT coalesce(sum(size), 0) FROM pg_ls_waldir()"); err != nil {
			return v, err
		}
	}
	if v.Slots, err = s.Slots(ctx); err != nil {
		return v, err
	}
	if v.Unwaiting, err = s.unwaiting(ctx); err != nil {
		return v, err
	}
	return v, s.surveyRest(ctx, &v)
}

// surveyRest asks for the archiver and the databases.
func (s *SQL) surveyRest(ctx context.Context, v *Survey) error {
	rows, err := s.query(ctx, "survey", `SELECT last_failed_wal FROM pg_stat_archiver
		WHERE last_failed_time IS NOT NULL AND (last_archived_time IS NULL OR last_failed_time > last_archived_time)`)
	if err != nil {
		return err
	}
	if len(rows) == 1 && len(rows[0]) == 1 {
		v.ArchiveFailed = rows[0][0].text
	}
	rows, err = s.query(ctx, "survey", "SELECT datname FROM pg_database WHERE datallowconn AND has_database_privilege(datname, 'CONNECT') ORDER BY datname")
	for _, row := range rows {
		v.Databases = append(v.Databases, row[0].text)
	}
	return err
}

// unwaiting lists who has synchronous_commit at a level that waits for nobody.
// Subscriptions have it off unless somebody says otherwise.
func (s *SQL) unwaiting(ctx context.Context) ([]Unwaiting, error) {
	rows, err := s.query(ctx, "survey", `
		SELECT r.rolname, d.datname, '', split_part(c, '=', 2)
		FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c
			LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
		WHERE split_part(c, '=', 1) = 'synchronous_commit' AND lower(split_part(c, '=', 2)) IN `+unwaitingLevels+`
		UNION ALL
		SELECT '', d.datname, b.subname, b.subsynccommit
		FROM pg_subscription b JOIN pg_database d ON d.oid = b.subdbid
		WHERE b.subenabled AND lower(b.subsynccommit) IN `+unwaitingLevels+`
		ORDER BY 1, 2, 3`)
	if err != nil {
		return nil, err
	}
	out := make([]Unwaiting, 0, len(rows))
	for _, row := range rows {
		r := reader{v: row}
		out = append(out, Unwaiting{Role: r.text(), Database: r.text(), Subscription: r.text(), Level: r.text()})
		if r.err != nil {
			return nil, diagnose("survey", s.target, r.err)
		}
	}
	return out, nil
}

// Unlogged counts the unlogged tables and materialized views of the session's own
// database, and names some of them.
func (s *SQL) Unlogged(ctx context.Context) (count int64, some []string, err error) {
	const from = " FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r', 'm')"
	if count, err = s.count(ctx, "look for unlogged tables of", "SELECT count(*)"+from); err != nil || count == 0 {
		return 0, nil, err
	}
	rows, err := s.query(ctx, "look for unlogged tables of", "SELECT oid::regclass::text"+from+" ORDER BY 1 LIMIT 3")
	for _, row := range rows {
		some = append(some, row[0].text)
	}
	return count, some, err
}

// Waiting lists the transactions whose commits wait for a standby now, as the low
// 32 bits of their ids, the way the log has them. Of other roles' sessions the role
// sees them as a member of pg_monitor.
func (s *SQL) Waiting(ctx context.Context) ([]uint32, error) {
	rows, err := s.query(ctx, "read waits of", "SELECT backend_xid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_xid IS NOT NULL")
	if err != nil {
		return nil, err
	}
	out := make([]uint32, 0, len(rows))
	for _, row := range rows {
		r := reader{v: row}
		out = append(out, uint32(r.number(32)))
		if r.err != nil {
			return nil, diagnose("read waits of", s.target, r.err)
		}
	}
	return out, nil
}

// DropSlot drops a slot that nobody uses. A missing one is [ErrSlotMissing], one in
// use [ErrSlotBusy].
func (s *SQL) DropSlot(ctx context.Context, name string) error {
	_, err := s.query(ctx, "drop replication slot "+name+" of", "SELECT pg_drop_replication_slot($1)", name)
	return err
}

// Checkpoint has the server write a checkpoint, by which it removes the log that
// nobody needs. The role needs to be a member of pg_checkpoint.
func (s *SQL) Checkpoint(ctx context.Context) error {
	_, err := s.query(ctx, "checkpoint", "CHECKPOINT")
	return err
}

func (s *SQL) count(ctx context.Context, op, sql string) (int64, error) {
	rows, err := s.query(ctx, op, sql)
	if err != nil {
		return 0, err
	}
	if len(rows) != 1 {
		return 0, diagnose(op, s.target, fmt.Errorf("%d rows", len(rows)))
	}
	r := reader{v: rows[0]}
	n := r.number(63)
	if r.err != nil {
		return 0, diagnose(op, s.target, r.err)
	}
	return int64(n), nil
}
