package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/probe"
	"github.com/tidegate/tidegate/internal/config"
)

// New is the kind: it implements [probe.Kind].
func New(from string, settings config.Section) (probe.Client, error) {
	s, err := config.ReadSection[Settings](settings)
	if err != nil {
		return nil, err
	}
	return &client{s: s, from: from}, nil
}

type client struct {
	s    Settings
	from string
}

// application is what pg_stat_activity calls the attempts.
const application = "tidegate-probe"

// Try implements [probe.Client].
func (c *client) Try(ctx context.Context, r probe.Request) error {
	a, err := c.dial(ctx, r)
	if err != nil {
		return err
	}
	defer a.close()
	// A context that ends makes pgconn cancel the query. It must not: see package
	// doc. What ends an attempt is its socket.
	stop := context.AfterFunc(ctx, a.cut)
	defer stop()
	err = c.ask(ctx, a, r)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%s: %w", a.stage, context.Cause(ctx)) // what a cut socket says is of no use
		return &tidegate.Error{Op: "probe", Subject: a.target, Class: tidegate.Transient, Err: err, Hint: a.hint()}
	}
	return diagnose(a.target, err)
}

// attempt is one connection, and how far it has come.
type attempt struct {
	pg     *pgconn.PgConn
	target string // user@host:port, for messages
	warned error  // what the server warned of since the connection was made
	stage  string
}

// Stages of an attempt, for messages.
const (
	stageAsk   = "wait for the server's answer"
	stageWrite = "wait for the commit to be confirmed"
)

// hint says what an attempt that took too long may mean.
func (a *attempt) hint() string {
	if a.stage == stageWrite {
		return notConfirmed
	}
	return ""
}

// cut ends whatever waits for the server.
func (a *attempt) cut() { _ = a.pg.Conn().Close() } // what waits reports it

func (a *attempt) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeMax)
	defer cancel()
	_ = a.pg.Close(ctx) // the attempt's outcome is what counts
	a.cut()
	<-a.pg.CleanupDone()
}

// closeMax is how long a good-bye may take.
const closeMax = 100 * time.Millisecond

// dial connects as a client does.
func (c *client) dial(ctx context.Context, r probe.Request) (*attempt, error) {
	cfg, err := pgconn.ParseConfig(c.s.Conn)
	if err == nil && r.At != "" {
		err = redirect(cfg, r.At)
	}
	if err != nil {
		return nil, &tidegate.Error{Op: "probe", Class: tidegate.Misuse, Err: err}
	}
	a := &attempt{target: fmt.Sprintf("%s@%s:%d", cfg.User, cfg.Host, cfg.Port), stage: stageAsk}
	cfg.RuntimeParams["application_name"] = application
	cfg.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" && a.warned == nil {
			a.warned = fmt.Errorf("the server warns: %s", n.Message)
		}
	}
	// Once connected nothing more is dialed: pgconn would cancel the query of a
	// connection that breaks by a second one.
	var connected atomic.Bool
	dialer := &net.Dialer{}
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if connected.Load() {
			return nil, errNoCancel
		}
		return dialer.DialContext(ctx, network, addr)
	}
	a.pg, err = pgconn.ConnectConfig(ctx, cfg)
	connected.Store(true)
	if err != nil {
		if answeredBy(err) && r.Heard != nil {
			r.Heard()
		}
		return nil, diagnose(a.target, err)
	}
	return a, nil
}

var errNoCancel = errors.New("a probe cancels nothing")

// redirect makes cfg lead to an endpoint, with all else as it was.
func redirect(cfg *pgconn.Config, at string) error {
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	was := cfg.Host
	var kept []*pgconn.FallbackConfig
	for _, f := range cfg.Fallbacks { // sslmode prefer falls back at the same host
		if f.Host == was {
			f.Host, f.Port = host, uint16(n)
			if f.TLSConfig != nil && f.TLSConfig.ServerName == was {
				f.TLSConfig.ServerName = host
			}
			kept = append(kept, f)
		}
	}
	if cfg.TLSConfig != nil && cfg.TLSConfig.ServerName == was {
		cfg.TLSConfig.ServerName = host
	}
	cfg.Host, cfg.Port, cfg.Fallbacks = host, uint16(n), kept
	return nil
}

// ask does what the level asks for on a connection.
func (c *client) ask(ctx context.Context, a *attempt, r probe.Request) error {
	open := context.WithoutCancel(ctx) // the socket ends
	rows, err := query(open, a.pg, "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')")
	if err != nil {
		return err
	}
	if rows[0] != "f" {
		return errFollows // whoever answered is not who writes
	}
	if r.Heard != nil {
		r.Heard()
	}
	if rows[1] != "off" {
		return errReadOnly
	}
	if r.Level != probe.Write {
		return nil
	}
	a.stage = stageWrite
	for pause := busyPause; ; pause *= 2 {
		wrote, err := c.write(open, a, r)
		if err != nil || wrote {
			return err
		}
		if pause > busyPauseMax {
			return errBusy
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errBusy
		}
	}
}

// An attempt looks this often, and no longer, whether one before it has ended: at
// 50, 150 and 350 ms.
const (
	busyPause    = 50 * time.Millisecond
	busyPauseMax = 200 * time.Millisecond
)

// write commits the row. wrote is false, and nothing was written, while another
// attempt of this gate waits for its commit to be confirmed.
func (c *client) write(ctx context.Context, a *attempt, r probe.Request) (wrote bool, err error) {
	results, err := a.pg.Exec(ctx, c.statement(r)).ReadAll()
	if err != nil {
		return false, err
	}
	if a.warned != nil {
		return false, a.warned
	}
	n := len(results)
	if n < 2 || results[n-1].CommandTag.String() != "COMMIT" {
		return false, errors.New("the server did not commit")
	}
	return results[n-2].CommandTag.RowsAffected() == 1, nil
}

// statement is the write, in one round trip. Nothing in it needs quotes but from,
// which is a node's name. The advisory lock is held until the commit is confirmed:
// who finds it taken waits for nothing, and the server has nothing to complain of.
func (c *client) statement(r probe.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "BEGIN; SET LOCAL lock_timeout = %d; ", lockTimeout.Milliseconds())
	if c.s.SynchronousCommit != "" {
		fmt.Fprintf(&b, "SET LOCAL synchronous_commit = %s; ", c.s.SynchronousCommit)
	}
	from := strings.ReplaceAll(c.from, "'", "''")
	fmt.Fprintf(&b, "INSERT INTO %[1]s (gate, epoch, n, at) SELECT '%[2]s', %[3]d, %[4]d, now() WHERE pg_try_advisory_xact_lock(hashtextextended('%[1]s %[2]s', 0)) "+
		"ON CONFLICT (gate) DO UPDATE SET epoch = EXCLUDED.epoch, n = EXCLUDED.n, at = EXCLUDED.at; COMMIT",
		c.s.Table, from, uint64(r.Epoch), r.Number)
	return b.String()
}

// lockTimeout is for whoever else locks the canary.
const lockTimeout = 500 * time.Millisecond

// query returns the only row of a statement.
func query(ctx context.Context, pg *pgconn.PgConn, sql string) ([]string, error) {
	results, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return nil, errors.New("want one row")
	}
	var out []string
	for _, v := range results[0].Rows[0] {
		out = append(out, string(v))
	}
	return out, nil
}
