package replication

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
)

// Marker is a session whose commits wait as a client's do, and change nothing. The
// role needs LOGIN, and EXECUTE on pg_logical_emit_message, which everybody has
// unless it was revoked.
type Marker struct{ sql SQL }

var errNoCancel = errors.New("a commit that waits is not cancelled")

// ConnectMarker opens the session. ctx bounds this call only. Errors as for
// [ConnectSQL].
func ConnectMarker(ctx context.Context, cfg Config) (*Marker, error) {
	// Once connected nothing more is dialed: pgconn cancels the query of a connection
	// that breaks by a second one, and the server would let the commit go.
	var connected atomic.Bool
	pg, target, err := dial(ctx, cfg.SetDefaults(), nil, func(next pgconn.DialFunc) pgconn.DialFunc {
		return func(ctx context.Context, network, addr string) (net.Conn, error) {
			if connected.Load() {
				return nil, errNoCancel
			}
			return next(ctx, network, addr)
		}
	})
	connected.Store(true)
	if err != nil {
		return nil, err
	}
	return &Marker{SQL{pg: pg, target: target}}, nil
}

// Mark commits a transaction of one logical message, which readers of the log pass
// over, at synchronous_commit on. It returns when the server confirms it, however
// long that takes.
func (m *Marker) Mark() error {
	const op = "write a mark on"
	results, err := m.sql.pg.Exec(context.Background(),
		"BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_logical_emit_message(true, 'tidegate', ''); COMMIT").ReadAll()
	if err != nil {
		return diagnose(op, m.sql.target, err)
	}
	if n := len(results); n != 4 || results[n-1].CommandTag.String() != "COMMIT" {
		return diagnose(op, m.sql.target, errors.New("the server did not commit"))
	}
	return nil
}

// Cut ends the session, and what waits in [Marker.Mark] with it; the server goes on
// waiting for as long as it would have. May be called at any time.
func (m *Marker) Cut() { _ = m.sql.pg.Conn().Close() } // what waits reports it

// Close ends the session after the last [Marker.Mark] has returned.
func (m *Marker) Close() error {
	err := m.sql.Close()
	<-m.sql.pg.CleanupDone()
	return err
}
