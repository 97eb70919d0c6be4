package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// connectTimeout bounds one connection's set-up on a Unix socket; the server
// answers at once, or refuses.
const connectTimeout = 5 * time.Second

// Conninfo is how this process reaches the server on its own socket, as libpq takes
// it. Everything that PG* variables could say is said in it, save the
// application's name.
func (s *Server) Conninfo() string {
	return fmt.Sprintf("host='%s' port=%d user='%s' dbname='%s' sslmode=disable passfile=/dev/null",
		quoteConninfo(s.SocketDir()), s.cfg.Port, quoteConninfo(s.cfg.User), quoteConninfo(s.cfg.Database))
}

// connect opens a connection of this process to the server's own socket.
func (s *Server) connect(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(s.Conninfo() + " application_name=tidegate")
	if err != nil {
		return nil, err
	}
	cfg.ConnectTimeout = connectTimeout
	return pgconn.ConnectConfig(ctx, cfg)
}

// query asks one connection that is kept, and another once when that has gone
// away. Callers take turns.
func (s *Server) query(ctx context.Context, sql string) ([][][]byte, error) {
	select {
	case s.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.asking }()
	kept := s.conn != nil && !s.conn.IsClosed()
	for {
		if !kept {
			conn, err := s.connect(ctx)
			if err != nil {
				return nil, err
			}
			s.conn = conn
		}
		rows, err := ask(ctx, s.conn, sql)
		var refusal *pgconn.PgError
		if err == nil || errors.As(err, &refusal) && !s.conn.IsClosed() {
			return rows, err
		}
		_ = s.conn.Close(ctx) // it is of no use any more
		s.conn = nil
		if !kept || ctx.Err() != nil {
			return nil, err
		}
		kept = false
	}
}

// ask runs one statement and returns its rows; NULL is nil.
func ask(ctx context.Context, conn *pgconn.PgConn, sql string) ([][][]byte, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	return results[len(results)-1].Rows, nil
}

// askOnce opens a connection for one statement.
func (s *Server) askOnce(ctx context.Context, sql string) ([][][]byte, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := ask(ctx, conn, sql)
	return rows, errors.Join(err, conn.Close(ctx))
}

// hangUp closes the kept connection: a fast stop would end it anyway, and say so
// in the log.
func (s *Server) hangUp(ctx context.Context) {
	select {
	case s.asking <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-s.asking }()
	if s.conn != nil {
		_ = s.conn.Close(ctx)
		s.conn = nil
	}
}

const stateSQL = `select r,
  case when r then pg_last_wal_receive_lsn() else pg_current_wal_flush_lsn() end,
  case when r then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end,
  case when r then pg_get_wal_replay_pause_state() = 'paused' else false end,
  exists (select from pg_stat_wal_receiver where status = 'streaming'),
  (extract(epoch from pg_last_xact_replay_timestamp()) * 1000000)::bigint,
  case when r
    then greatest((select timeline_id from pg_control_checkpoint()),
      (select min_recovery_end_timeline from pg_control_recovery()),
      (select received_tli from pg_stat_wal_receiver))
    else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int end
from (select pg_is_in_recovery() as r) as recovery`

// State asks the server. It fails while the server does not take connections.
func (s *Server) State(ctx context.Context) (State, error) {
	rows, err := s.query(ctx, stateSQL)
	if err != nil {
		return State{}, s.failed("ask state of", err)
	}
	st, err := parseState(rows)
	if err != nil {
		return State{}, s.failed("ask state of", err)
	}
	return st, nil
}

func parseState(rows [][][]byte) (State, error) {
	if len(rows) != 1 || len(rows[0]) != 7 {
		return State{}, errors.New("want one row of seven")
	}
	row := rows[0]
	yes := func(i int) bool { return string(row[i]) == "t" }
	var errs []error
	lsn := func(i int) wal.LSN {
		if row[i] == nil {
			return 0
		}
		v, err := wal.ParseLSN(string(row[i]))
		errs = append(errs, err)
		return v
	}
	st := State{Recovery: yes(0), Received: lsn(1), Replayed: lsn(2), Paused: yes(3), Streaming: yes(4)}
	if row[5] != nil {
		us, err := strconv.ParseInt(string(row[5]), 10, 64)
		errs = append(errs, err)
		st.LastCommit = time.UnixMicro(us).UTC()
	}
	tli, err := strconv.ParseUint(string(row[6]), 10, 32)
	st.Timeline = wal.Timeline(tli)
	return st, errors.Join(append(errs, err)...)
}

// failed wraps an error of a server that was asked something. What a server that
// starts or stops says is transient.
func (s *Server) failed(op string, err error) error {
	class := tidegate.ClassOf(err)
	var refusal *pgconn.PgError
	var connect *pgconn.ConnectError
	hint := ""
	switch {
	case errors.As(err, &refusal):
		class, hint = classOfState(refusal.Code)
	case errors.As(err, &connect), errors.Is(err, context.DeadlineExceeded):
		class = tidegate.Transient
	}
	return &tidegate.Error{Op: op, Subject: s.cfg.Home, Class: class, Hint: hint, Err: err}
}

// classOfState judges an SQLSTATE (errcodes.txt).
func classOfState(code string) (tidegate.Class, string) {
	switch code {
	case "57P01", "57P02", "57P03", "53300", "40001", "57014":
		return tidegate.Transient, ""
	case "28000", "28P01":
		return tidegate.Misuse, "set user to a superuser that the primary has; pg_ident.conf maps this process's user to it"
	case "42501":
		return tidegate.Misuse, "set user to a superuser: promotion and checkpoints need one"
	}
	return tidegate.Permanent, ""
}

// quoteConninfo escapes a value within single quotes.
func quoteConninfo(s string) string {
	return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s)
}
