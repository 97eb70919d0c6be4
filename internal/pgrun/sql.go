package pgrun

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Conn is the connection string over the Unix socket, as the superuser, with more
// "key=value" pairs, which win.
func (s *Server) Conn(more ...string) string {
	return conn(map[string]string{"host": s.SocketDir, "sslmode": "disable"}, more)
}

// TCP is the connection string over TCP with the superuser's password and TLS
// that verifies the server's certificate, with more "key=value" pairs, which win.
func (s *Server) TCP(more ...string) string {
	return conn(map[string]string{"host": s.Host, "password": s.Password, "sslmode": "verify-full", "sslrootcert": s.CAFile()}, more)
}

func conn(set map[string]string, more []string) string {
	set["port"], set["user"], set["dbname"] = fmt.Sprint(Port), Superuser, "postgres"
	for _, m := range more {
		k, v, _ := strings.Cut(m, "=")
		set[k] = v
	}
	var b strings.Builder
	for _, k := range []string{"host", "port", "user", "password", "dbname", "sslmode", "sslrootcert"} {
		if v, ok := set[k]; ok {
			fmt.Fprintf(&b, "%s='%s' ", k, v)
			delete(set, k)
		}
	}
	for k, v := range set {
		fmt.Fprintf(&b, "%s='%s' ", k, v)
	}
	return strings.TrimSpace(b.String())
}

// Query runs statements over the Unix socket, in a session of its own, and
// returns the rows of the last result, columns as text; NULL is "".
func (s *Server) Query(ctx context.Context, sql string) ([][]string, error) {
	return Query(ctx, s.Conn(), sql)
}

// Query is [Server.Query] on whatever a connection string leads to.
func Query(ctx context.Context, conn, sql string) ([][]string, error) {
	c, err := pgconn.Connect(ctx, conn)
	if err != nil {
		return nil, err
	}
	results, err := c.Exec(ctx, sql).ReadAll()
	err = errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	var rows [][]string
	if len(results) > 0 {
		for _, r := range results[len(results)-1].Rows {
			row := make([]string, len(r))
			for i, v := range r {
				row[i] = string(v)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// Text is [Server.Query] as psql -At prints it: columns parted by "|", rows by
// line ends.
func (s *Server) Text(ctx context.Context, sql string) (string, error) {
	rows, err := s.Query(ctx, sql)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.Name, err)
	}
	return Text(rows), nil
}

// Text is rows as psql -At prints them.
func Text(rows [][]string) string {
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = strings.Join(r, "|")
	}
	return strings.Join(lines, "\n")
}

// Final is an error that ends a [Poll] at once.
func Final(err error) error { return fatal{err} }

type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// Poll calls cond, which may take its time, until it returns nil, a few times a
// second, and gives cond's last error when ctx ends.
func Poll(ctx context.Context, cond func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		if f := (fatal{}); errors.As(err, &f) {
			return f.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
