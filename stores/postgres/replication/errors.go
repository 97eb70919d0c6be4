package replication

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Refusals of a server. Test with [errors.Is].
var (
	ErrPassword       = errors.New("the server does not accept the password")
	ErrRights         = errors.New("the role may not do this")
	ErrCertificate    = errors.New("the server's certificate is not trusted")
	ErrSystem         = errors.New("the server is another system")
	ErrNotReady       = errors.New("the server is starting up or shutting down")
	ErrTooMany        = errors.New("the server has no connection or slot left")
	ErrSlotMissing    = errors.New("the replication slot does not exist")
	ErrSlotExists     = errors.New("the replication slot exists already")
	ErrSlotBusy       = errors.New("the replication slot is in use")
	ErrSlotLost       = errors.New("the replication slot has lost its log")
	ErrSegmentRemoved = errors.New("the server no longer has the log that was asked for")
	ErrAhead          = errors.New("the place that was asked for is ahead of the server's log")
	ErrTimeline       = errors.New("the place that was asked for is not in the server's history")
	ErrPromoted       = errors.New("the standby was promoted meanwhile")
	ErrSilent         = errors.New("the server is silent")
)

// TimelineEnd is the error of a stream whose timeline ended on this server because
// another one branched off: every byte before At has been given. The connection is
// of no more use.
type TimelineEnd struct {
	Timeline wal.Timeline // the one that ended
	At       wal.LSN      // its end, exclusive
	Next     wal.Timeline // its child in the server's history
}

func (e *TimelineEnd) Error() string {
	return fmt.Sprintf("timeline %s ended at %s, timeline %s follows", e.Timeline, e.At, e.Next)
}

// SystemError says whose log was found where another one's was expected. It wraps
// [ErrSystem].
type SystemError struct {
	Want, Got uint64 // system identifiers
}

func (e *SystemError) Error() string {
	return fmt.Sprintf("system identifier %d: want %d: the server is another system", e.Got, e.Want)
}

// Unwrap returns ErrSystem.
func (e *SystemError) Unwrap() error { return ErrSystem }

func otherSystem(op, target string, want, got uint64) error {
	return &tidegate.Error{
		Op: op, Subject: target, Class: tidegate.Misuse,
		Hint: "the address leads to another cluster, or the cluster was made anew: check the connection string",
		Err:  &SystemError{Want: want, Got: got},
	}
}

// refusal is what an error of the server means to us.
type refusal struct {
	cause error // nil keeps the server's words alone
	class tidegate.Class
	hint  string
}

// refusals by SQLSTATE (errcodes.txt), where the code alone decides.
var refusals = map[string]refusal{
	"28P01": {ErrPassword, tidegate.Misuse, "set the role's password in the connection string or in the file that PGPASSFILE names"},
	"28000": {ErrRights, tidegate.Misuse, "let the role in by a line of pg_hba.conf: host replication <role> <address> scram-sha-256"},
	"42501": {ErrRights, tidegate.Misuse, "give the role the right: ALTER ROLE <role> REPLICATION, and GRANT pg_monitor TO <role>"},
	"42704": {ErrSlotMissing, tidegate.Permanent, "the server keeps no log for us: create the slot and begin a new generation"},
	"42710": {ErrSlotExists, tidegate.Permanent, "use the slot or drop it: SELECT pg_drop_replication_slot('<slot>')"},
	"55006": {ErrSlotBusy, tidegate.Transient, "see who streams from it: SELECT active_pid FROM pg_replication_slots"},
	"57P03": {ErrNotReady, tidegate.Transient, ""},
	"57P01": {ErrNotReady, tidegate.Transient, ""},
	"57P02": {ErrNotReady, tidegate.Transient, ""},
	"53300": {ErrTooMany, tidegate.Transient, "raise max_wal_senders and max_connections"},
	"53400": {ErrTooMany, tidegate.Misuse, "raise max_replication_slots or drop a slot that nobody uses"},
	"XX001": {nil, tidegate.Corrupt, "the server found damaged pages of its own: see its log, and pg_amcheck"},
	"58P01": {ErrSegmentRemoved, tidegate.Permanent, "begin a new generation; see max_slot_wal_keep_size and wal_keep_size"},
}

// lsnInText finds log positions in a message, whatever its language.
var lsnInText = regexp.MustCompile(`\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b`)

// diagnose makes an error of this package from what pgconn or the network gave.
func diagnose(op, subject string, err error) error {
	var e *tidegate.Error
	if errors.As(err, &e) {
		return err
	}
	r := refusal{class: tidegate.Transient}
	var pg *pgconn.PgError
	var corrupt *tidegate.CorruptError
	switch {
	case errors.As(err, &pg):
		r = refusalOf(pg)
	case isCertificate(err):
		r = refusal{ErrCertificate, tidegate.Misuse, "name the authority that signed the server's certificate: sslrootcert=<file>"}
	case errors.As(err, &corrupt), errors.Is(err, tidegate.ErrGap):
		r.class = tidegate.Corrupt
	case isNetwork(err), errors.Is(err, ErrSilent), errors.Is(err, ErrNotReady):
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	default:
		r.class = tidegate.Permanent
	}
	if r.cause != nil {
		err = fmt.Errorf("%w: %w", r.cause, err)
	}
	return &tidegate.Error{Op: op, Subject: subject, Class: r.class, Hint: r.hint, Err: err}
}

func refusalOf(pg *pgconn.PgError) refusal {
	// Codes that others use, too: of slots and segments only where the server's code
	// for them raised it (slot.c; walsender.c WalSndSegmentOpen, xlog.c CheckXLogRemoved).
	ours := true
	switch pg.Code {
	case "42704", "42710", "55006":
		ours = strings.Contains(pg.Routine, "ReplicationSlot")
	case "58P01":
		ours = pg.Routine == "WalSndSegmentOpen" || pg.Routine == "CheckXLogRemoved"
	}
	if r, ok := refusals[pg.Code]; ok && ours {
		return r
	}
	switch pg.Code {
	case "XX000":
		// The server has no code of their own for these (walsender.c, StartReplication;
		// timeline.c, tliSwitchPoint); the positions in their texts tell them apart.
		const rejoin = "the logs have parted: begin a new generation, or rewind"
		switch n := len(lsnInText.FindAllString(pg.Message, -1)); {
		case pg.Routine == "tliSwitchPoint", pg.Routine == "StartReplication" && n == 1:
			return refusal{ErrTimeline, tidegate.Permanent, rejoin}
		case pg.Routine == "StartReplication" && n == 2:
			return refusal{ErrAhead, tidegate.Permanent, rejoin}
		}
	case "55000":
		// object_not_in_prerequisite_state is many things; who says it tells which.
		switch {
		case strings.Contains(pg.Routine, "lot") && pg.Routine != "CheckSlotRequirements":
			return refusal{ErrSlotLost, tidegate.Permanent, "begin a new generation; see max_slot_wal_keep_size, and idle_replication_slot_timeout where there is one"}
		case pg.Routine == "do_pg_backup_stop", pg.Routine == "do_pg_stop_backup", pg.Routine == "sendDir":
			return refusal{ErrPromoted, tidegate.Transient, ""}
		}
	}
	if strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "53") {
		return refusal{class: tidegate.Transient}
	}
	return refusal{class: tidegate.Permanent}
}

func isCertificate(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &verify)
}

func isNetwork(err error) bool {
	var n net.Error
	return errors.As(err, &n) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// codeOf returns the SQLSTATE of a server's error, or "".
func codeOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
