package walsender

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// refusal is an error as a receiver is told it. Codes are SQLSTATEs; texts are
// PostgreSQL's own where it has one, because people search for them.
type refusal struct {
	code    string
	message string
	detail  string
	hint    string
}

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code: code, message: fmt.Sprintf(format, args...)}
}

func (r *refusal) Error() string { return r.message }

// response is r as a message. FATAL ends the connection, ERROR the command.
func (r *refusal) response(severity string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity,
		Code: r.code, Message: r.message, Detail: r.detail, Hint: r.hint,
	}
}

// ofParser returns how a command that parseCommand refused is answered.
func ofParser(err error) *refusal {
	switch {
	case errors.Is(err, errLogical), errors.Is(err, errNoSuchVerb):
		return refuse("0A000", "%s", err)
	case errors.Is(err, errSlotName):
		return refuse("42602", "%s", err)
	}
	return refuse("42601", "%s", err)
}

// ofOpen returns how a Log's error about a place in it is answered.
func ofOpen(err error, id Identity, tli wal.Timeline, from wal.LSN) *refusal {
	var ahead *AheadError
	var branch *HistoryError
	switch {
	case errors.As(err, &ahead):
		return refuse("XX000", "%s", ahead)
	case errors.As(err, &branch):
		r := refuse("XX000", "%s", branch)
		if branch.ForkedAt != 0 {
			r.detail = fmt.Sprintf("This server's history forked from timeline %s at %s.", branch.Timeline, branch.ForkedAt)
		}
		return r
	case errors.Is(err, tidegate.ErrNotFound):
		return refuse("58P01", "requested WAL segment %s has already been removed", id.SegmentSize.FileName(tli, from))
	}
	return ofLog(err)
}

// ofLog returns how any other error of a Log is answered: what may pass as
// "cannot connect now", so that monitoring does not take it for damage.
func ofLog(err error) *refusal {
	code := "58030" // io_error
	switch {
	case errors.Is(err, errSource):
		code = "XX001" // data_corrupted
	case tidegate.ClassOf(err) == tidegate.Transient:
		code = "57P03"
	}
	r := refuse(code, "%s", err)
	r.hint = tidegate.HintOf(err)
	return r
}
