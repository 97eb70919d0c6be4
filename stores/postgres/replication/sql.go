package replication

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// SQL is an ordinary session, for what a replication connection cannot answer. For
// one goroutine at a time. The role needs LOGIN and membership in pg_monitor; its
// database is the one of [Config.Conn].
type SQL struct {
	pg     *pgconn.PgConn
	target string
}

// ConnectSQL opens a session and makes sure that the server is of the system that
// cfg names. Errors as for [Connect].
func ConnectSQL(ctx context.Context, cfg Config) (*SQL, error) {
	cfg = cfg.SetDefaults()
	pg, target, err := dial(ctx, cfg, nil)
	if err != nil {
		return nil, err
	}
	s := &SQL{pg: pg, target: target}
	if cfg.System != 0 {
		err = s.check(ctx, cfg.System)
	}
	if err != nil {
		_ = s.Close() // the refusal is what counts
		return nil, err
	}
	return s, nil
}

func (s *SQL) check(ctx context.Context, want uint64) error {
	c, err := s.Control(ctx)
	if err != nil || c.System == want {
		return err
	}
	return otherSystem("connect to", s.target, want, c.System)
}

// Close ends the session; it does not wait for the server for long.
func (s *SQL) Close() error { return hangUp(s.pg) }

// query runs one statement with arguments and returns its rows.
func (s *SQL) query(ctx context.Context, op, sql string, args ...string) ([][]field, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	r := s.pg.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if r.Err != nil {
		return nil, diagnose(op, s.target, r.Err)
	}
	out := make([][]field, len(r.Rows))
	for i, row := range r.Rows {
		out[i] = fields(row)
	}
	return out, nil
}

// reader takes values of a row apart and remembers the first that is not what it
// should be.
type reader struct {
	v   []field
	err error
}

func (r *reader) text() string {
	if len(r.v) == 0 {
		r.note(errors.New("too few values"))
		return ""
	}
	f := r.v[0]
	r.v = r.v[1:]
	return f.text
}

func (r *reader) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

// number is 0 for NULL.
func (r *reader) number(bits int) uint64 {
	s := r.text()
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		r.note(err)
	}
	return n
}

// lsn is 0 for NULL.
func (r *reader) lsn() wal.LSN {
	s := r.text()
	if s == "" {
		return 0
	}
	l, err := wal.ParseLSN(s)
	if err != nil {
		r.note(err)
	}
	return l
}

func (r *reader) yes() bool { return r.text() == "t" }

// Control is what pg_control says.
type Control struct {
	System           uint64
	Checkpoint       wal.LSN // the newest checkpoint's record; of a standby, its newest restartpoint's
	Redo             wal.LSN
	Timeline         wal.Timeline
	FullPageWrites   bool
	DataChecksums    bool
	SegmentSize      wal.SegmentSize
	PageBytes        uint32 // of data files
	WALPageBytes     uint32
	MinRecoveryEnd   wal.LSN // of a standby: what must be replayed before its files are consistent; 0 elsewhere
	MinRecoveryTLI   wal.Timeline
	CheckpointedUnix int64 // seconds
}

// Control reads the server's control file through SQL (pg_control_system and the rest).
func (s *SQL) Control(ctx context.Context) (Control, error) {
	rows, err := s.query(ctx, "read control data of", `
		SELECT y.system_identifier, c.checkpoint_lsn, c.redo_lsn, c.timeline_id, c.full_page_writes,
			i.data_page_checksum_version <> 0, i.bytes_per_wal_segment, i.database_block_size, i.wal_block_size,
			NULLIF(r.min_recovery_end_lsn, '0/0'), NULLIF(r.min_recovery_end_timeline, 0),
			extract(epoch FROM c.checkpoint_time)::bigint
		FROM pg_control_system() y, pg_control_checkpoint() c, pg_control_init() i, pg_control_recovery() r`)
	if err != nil {
		return Control{}, err
	}
	if len(rows) != 1 {
		return Control{}, diagnose("read control data of", s.target, fmt.Errorf("%d rows", len(rows)))
	}
	r := reader{v: rows[0]}
	c := Control{
		System: r.number(64), Checkpoint: r.lsn(), Redo: r.lsn(), Timeline: wal.Timeline(r.number(32)), FullPageWrites: r.yes(),
		DataChecksums: r.yes(), SegmentSize: wal.SegmentSize(r.number(32)), PageBytes: uint32(r.number(32)), WALPageBytes: uint32(r.number(32)),
		MinRecoveryEnd: r.lsn(), MinRecoveryTLI: wal.Timeline(r.number(32)), CheckpointedUnix: int64(r.number(63)),
	}
	if r.err != nil {
		return c, diagnose("read control data of", s.target, r.err)
	}
	return c, nil
}

// Settings reads settings by name, in the units and spelling of pg_settings: sizes
// and times as plain numbers of the setting's own unit. Names that the server does
// not know, or does not show to the role, are left out.
func (s *SQL) Settings(ctx context.Context, names ...string) (map[string]string, error) {
	out := make(map[string]string, len(names))
	for _, n := range names {
		rows, err := s.query(ctx, "read setting "+n+" of", "SELECT setting FROM pg_settings WHERE name = lower($1)", n)
		if err != nil {
			return nil, err
		}
		if len(rows) == 1 && len(rows[0]) == 1 && !rows[0][0].null {
			out[n] = rows[0][0].text
		}
	}
	return out, nil
}

// StandbySettings are the names of what a hot standby must have at least as large
// as its primary has, or it stops replaying.
func StandbySettings() []string {
	return []string{"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction"}
}

// State is what the server is at now.
type State struct {
	Version    int // server_version_num: 150018
	InRecovery bool
	End        wal.LSN // a primary's flushed log
	Received   wal.LSN // a standby's: what its walreceiver has flushed
	Replayed   wal.LSN // a standby's
}

// State asks what the server is at. Places that do not apply are 0.
func (s *SQL) State(ctx context.Context) (State, error) {
	rows, err := s.query(ctx, "read state of", `
		SELECT current_setting('server_version_num'), r,
			CASE WHEN NOT r THEN pg_current_wal_flush_lsn() END,
			CASE WHEN r THEN pg_last_wal_receive_lsn() END,
			CASE WHEN r THEN pg_last_wal_replay_lsn() END
		FROM pg_is_in_recovery() r`)
	if err != nil {
		return State{}, err
	}
	if len(rows) != 1 {
		return State{}, diagnose("read state of", s.target, fmt.Errorf("%d rows", len(rows)))
	}
	r := reader{v: rows[0]}
	st := State{Version: int(r.number(31)), InRecovery: r.yes(), End: r.lsn(), Received: r.lsn(), Replayed: r.lsn()}
	if r.err != nil {
		return st, diagnose("read state of", s.target, r.err)
	}
	return st, nil
}

// Keeping says how much of the log that a slot needs the server still has
// (pg_replication_slots.wal_status).
type Keeping string

// The states of a slot's log.
const (
	KeepingReserved   Keeping = "reserved"   // within max_wal_size
	KeepingExtended   Keeping = "extended"   // beyond it, and kept
	KeepingUnreserved Keeping = "unreserved" // goes at the next checkpoint
	KeepingLost       Keeping = "lost"       // gone
	KeepingNone       Keeping = ""           // nothing was ever reserved
)

// SlotState is a slot as pg_replication_slots shows it.
type SlotState struct {
	Name      string
	Physical  bool
	Temporary bool
	ActivePID uint32  // of the walsender that uses it; 0 is none
	Restart   wal.LSN // 0 is none
	Keeping   Keeping
	Why       string // it is lost, in the server's word: wal_removed, idle_timeout; empty before release 17
	// SafeBytes is what may still be written before the slot is in danger of losing
	// its log; HasSafe is false when nothing bounds it.
	SafeBytes int64
	HasSafe   bool
	// XminAge counts the transactions since the oldest one whose rows the slot keeps,
	// of the catalogs or of all tables; 0 when it keeps none.
	XminAge int64
}

// Slots lists the server's slots by name.
func (s *SQL) Slots(ctx context.Context) ([]SlotState, error) {
	rows, err := s.query(ctx, "read slots of", `
		SELECT slot_name, slot_type = 'physical', temporary, active_pid, restart_lsn, wal_status, safe_wal_size,
			greatest(age(xmin), age(catalog_xmin), 0), to_jsonb(s) ->> 'invalidation_reason' -- a column since 17
		FROM pg_replication_slots s ORDER BY slot_name`)
	if err != nil {
		return nil, err
	}
	out := make([]SlotState, 0, len(rows))
	for _, row := range rows {
		r := reader{v: row}
		one := SlotState{
			Name: r.text(), Physical: r.yes(), Temporary: r.yes(), ActivePID: uint32(r.number(32)), Restart: r.lsn(), Keeping: Keeping(r.text()),
		}
		if safe := r.text(); safe != "" {
			n, err := strconv.ParseInt(safe, 10, 64) // below 0 when the slot lives on borrowed room
			one.SafeBytes, one.HasSafe = n, true
			r.note(err)
		}
		one.XminAge = int64(r.number(31))
		one.Why = r.text()
		if r.err != nil {
			return nil, diagnose("read slots of", s.target, r.err)
		}
		out = append(out, one)
	}
	return out, nil
}

// Sender is one receiver as the server sees it (pg_stat_replication).
type Sender struct {
	PID             uint32
	ApplicationName string
	State           string // "startup", "catchup", "streaming", "backup", "stopping"
	Sent            wal.LSN
	Status                 // as it was last told
	Sync            string // "async", "potential", "sync", "quorum"
}

// Senders lists the receivers, by process.
func (s *SQL) Senders(ctx context.Context) ([]Sender, error) {
	rows, err := s.query(ctx, "read receivers of", `
		SELECT pid, application_name, state, sent_lsn, write_lsn, flush_lsn, replay_lsn, sync_state
		FROM pg_stat_replication ORDER BY pid`)
	if err != nil {
		return nil, err
	}
	out := make([]Sender, 0, len(rows))
	for _, row := range rows {
		r := reader{v: row}
		one := Sender{
			PID: uint32(r.number(32)), ApplicationName: r.text(), State: r.text(), Sent: r.lsn(),
			Status: Status{Write: r.lsn(), Flush: r.lsn(), Apply: r.lsn()}, Sync: r.text(),
		}
		if r.err != nil {
			return nil, diagnose("read receivers of", s.target, r.err)
		}
		out = append(out, one)
	}
	return out, nil
}

// AdvanceSlot moves a slot that nobody uses on to a place, so that the server may
// remove what lies before. It works on standbys, too; the role needs REPLICATION.
func (s *SQL) AdvanceSlot(ctx context.Context, name string, to wal.LSN) error {
	_, err := s.query(ctx, "advance replication slot "+name+" of", "SELECT pg_replication_slot_advance($1, $2::pg_lsn)", name, to.String())
	return err
}
