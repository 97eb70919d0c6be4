package probe

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
)

var (
	errFollows  = errors.New("the server is in recovery: it follows another one")
	errBusy     = errors.New("an earlier write of this gate still waits for its commit to be confirmed")
	errReadOnly = errors.New("the server takes no writes: its transactions are read-only")
)

// notConfirmed is what to do about a server that answers and confirms no commit.
const notConfirmed = "the server answers, and its commits are not confirmed: see the stream's gate, and what the server waits for (pg_stat_activity.wait_event)"

// refusal is what an error means to an operator.
type refusal struct {
	class tidegate.Class
	hint  string
}

// refusals by SQLSTATE (errcodes.txt) that somebody has to mend; every other one
// may pass.
var refusals = map[string]refusal{
	"28P01": {tidegate.Misuse, "set the role's password in the passfile that conn names, or in PGPASSFILE"},
	"28000": {tidegate.Misuse, "let the role in by a line of pg_hba.conf, and LOGIN"},
	"3D000": {tidegate.Misuse, "name a database that is there: dbname in conn"},
	"3F000": {tidegate.Misuse, "make the canary: docs/operating/postgresql.md, Measuring"},
	"42P01": {tidegate.Misuse, "make the canary: docs/operating/postgresql.md, Measuring"},
	"42703": {tidegate.Misuse, "make the canary as docs/operating/postgresql.md, Measuring, has it"},
	"42P10": {tidegate.Misuse, "make the canary as docs/operating/postgresql.md, Measuring, has it: gate is its key"},
	"42501": {tidegate.Misuse, "GRANT SELECT, INSERT, UPDATE on the canary, and USAGE on its schema, to the role"},
	"55P03": {tidegate.Transient, "see who locks the canary: pg_locks"},
	"53300": {tidegate.Transient, "raise max_connections, or the role's connection limit"},
}

// diagnose makes the attempt's error; nil stays nil.
func diagnose(target string, err error) error {
	if err == nil {
		return nil
	}
	r := refusal{class: tidegate.Transient}
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg):
		if known, ok := refusals[pg.Code]; ok {
			r = known
		}
	case errors.Is(err, errFollows):
		r.hint = "the route leads to a standby: see `tidegate status`, and what the route's endpoints are"
	case errors.Is(err, errBusy):
		r.hint = notConfirmed
	case errors.Is(err, errReadOnly):
		r = refusal{tidegate.Misuse, "reset default_transaction_read_only, of the server, the database or the role"}
	case isCertificate(err):
		r = refusal{tidegate.Misuse, "name the authority that signed the server's certificate, sslrootcert=<file>, and a host that the certificate has"}
	}
	return &tidegate.Error{Op: "probe", Subject: target, Class: r.class, Hint: r.hint, Err: err}
}

// answeredBy reports whether a server refused a connection itself: it lives. One
// that is starting up may be one that follows, and class 08 is what poolers say of
// servers that they do not reach.
func answeredBy(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code != "57P03" && !strings.HasPrefix(pg.Code, "08")
}

func isCertificate(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &verify)
}
