package probe

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	application = "tidegate-drill"
	hangUpWait  = time.Second // for the server to hear that a connection ends
)

// connectionKeys are what a connection string may say: no service and no password.
var connectionKeys = []string{
	"host", "port", "user", "dbname", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "target_session_attrs", "options", "application_name",
}

// connection reads a connection string. A password comes out of a passfile that it names,
// and from nowhere else: one out of the environment, or out of the home of whoever runs
// the drill, is not meant for the asked server.
func connection(where string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfigWithOptions(where, pgconn.ParseConfigOptions{ConnStringAllowedKeys: connectionKeys})
	if err != nil {
		return nil, err
	}
	switch named := strings.Contains(where, "passfile"); {
	case !named:
		cfg.Password = ""
	case os.Getenv("PGPASSWORD") != "":
		return nil, errors.New("the environment has PGPASSWORD, which would be sent instead of what the passfile says: start the drill without it")
	}
	return cfg, nil
}

// query asks one statement on a connection of its own. When ctx ends before the answer,
// the connection is cut, and whether a write was committed is not known.
func (k *Asker) query(ctx context.Context, s *SQL) (out answered, err error) {
	cfg, err := connection(k.at.Fill(s.Where))
	if err != nil {
		return out, err // pgconn leaves the password out
	}
	cfg.DialFunc, cfg.MaxProtocolMessageBodyLen = k.dial, answerBytesMax
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil } // a place gives names; dialling looks them up
	cfg.RuntimeParams["application_name"] = application
	a, err := execute(ctx, cfg, k.at.Fill(s.Query))
	if err != nil {
		return out, redacted{err, cfg.Password}
	}
	want, contains := k.at.Fill(s.Want), k.at.Fill(s.Contains)
	wrong := (want != "" || contains != "") && a.none != "" || want != "" && a.text != want || !strings.Contains(a.text, contains)
	return answered{a.text, without(a.text+a.none, cfg.Password), !wrong}, nil
}

// answer is the first column of the first row, or the tag of a statement without rows.
type answer struct {
	text string
	none string // why there is no text; empty: there is
}

func execute(ctx context.Context, cfg *pgconn.Config, query string) (a answer, err error) {
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return a, err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangUpWait)
		defer cancel()
		_ = conn.Close(end) // the answer is there
	}()
	rr := conn.ExecParams(ctx, query, nil, nil, nil, nil)
	rows := false
	if rr.NextRow() && len(rr.Values()) > 0 {
		rows = true
		if first := rr.Values()[0]; first == nil {
			a.none = "null"
		} else {
			a.text = string(first)
		}
	}
	columns := len(rr.FieldDescriptions())
	tag, err := rr.Close() // all of it is read: what fails behind the first row fails
	switch {
	case rows:
	case columns > 0:
		a.none = "no row"
	default:
		a.text = tag.String()
	}
	return a, err
}

// redacted is an error whose text does not have a secret: the password, which is out of a
// passfile or the environment.
type redacted struct {
	err    error
	secret string
}

func (r redacted) Error() string { return without(r.err.Error(), r.secret) }

func (r redacted) Unwrap() error { return r.err }

func without(text, secret string) string {
	if secret == "" {
		return text
	}
	return strings.ReplaceAll(text, secret, "(password)")
}
