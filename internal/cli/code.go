package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	"github.com/tidegate/tidegate/internal/pki"
)

// Code is a process's exit code. The numbers are a promise to scripts: they are
// listed in docs/operating/exit-codes.md and never change their meaning.
type Code int

// The exit codes.
const (
	OK           Code = 0  // done
	Failed       Code = 1  // an error that none of the others names
	Usage        Code = 2  // wrong arguments or configuration; nothing was tried
	Auth         Code = 3  // the certificate is, or credentials are, not accepted, or may not do this
	Refused      Code = 4  // a rule said no; nothing changed
	Aborted      Code = 5  // interrupted before the end
	NotFound     Code = 6  // no such service, stream, plan or file
	Conflict     Code = 7  // somebody else changed it, or a newer epoch holds it
	Unreachable  Code = 8  // no answer; safe to try again
	Unverified   Code = 9  // bytes or digests are not what they must be
	RPOBreached  Code = 10 // more could be lost now than the objective allows
	RTOBreached  Code = 11 // recovery took, or would take, longer than the objective allows
	UnknownState Code = 12 // what must be known is unknown or stale
)

// codedError gives an error an exit code that its class does not imply.
type codedError struct {
	code Code
	err  error
}

func (e *codedError) Error() string { return e.err.Error() }
func (e *codedError) Unwrap() error { return e.err }

// WithCode makes the process end with code because of err. A nil err stays nil.
func WithCode(code Code, err error) error {
	if err == nil {
		return nil
	}
	return &codedError{code, err}
}

// silentError ends the process with a code that the printed result explains.
type silentError struct{ code Code }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", int(e.code)) }

// Exit ends the process with code and prints nothing more: the result on
// stdout is the explanation. Exit(OK) is nil.
func Exit(code Code) error {
	if code == OK {
		return nil
	}
	return &silentError{code}
}

// Usagef is an error about the arguments of a command.
func Usagef(format string, args ...any) error {
	return WithCode(Usage, fmt.Errorf(format, args...))
}

// Remote is what a command makes of an error from a Connect client: the
// vocabulary's error, with the exit code that the peer's answer implies. Code
// and detail must be looked at together: only the code tells that a peer does
// not accept the certificate, only the detail tells which rule refused.
func Remote(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	out := api.FromError(op, subject, err)
	if untrusted(err) {
		hint := tidegate.HintOf(err)
		if hint == "" {
			hint = "the peer does not accept this certificate: compare the authority and the role of both ends"
		}
		return WithCode(Auth, &tidegate.Error{Op: op, Subject: subject, Class: tidegate.Refused, Hint: hint, Err: errors.Unwrap(out)})
	}
	if code, ok := codeOfConnect(connect.CodeOf(err)); ok {
		return WithCode(code, out)
	}
	return out
}

// CodeOf is the exit code for err.
func CodeOf(err error) Code {
	var coded *codedError
	var silent *silentError
	switch {
	case err == nil:
		return OK
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &coded):
		return coded.code
	case untrusted(err), errors.Is(err, tidegate.ErrDenied):
		return Auth
	case errors.Is(err, context.Canceled):
		return Aborted
	case errors.Is(err, tidegate.ErrConflict):
		return Conflict
	case errors.Is(err, tidegate.ErrNotFound):
		return NotFound
	case errors.Is(err, tidegate.ErrDiverged), errors.Is(err, tidegate.ErrGap) && tidegate.ClassOf(err) != tidegate.Refused: // a gap that was accepted is no damage
		return Unverified
	case errors.Is(err, tidegate.ErrFull):
		return Failed // transient for a stream that waits for space, not for a command
	}
	//exhaustive:enforce
	switch tidegate.ClassOf(err) {
	case tidegate.Misuse:
		if errors.Is(err, os.ErrNotExist) {
			return NotFound
		}
		return Usage
	case tidegate.Refused:
		return Refused
	case tidegate.Fenced:
		return Conflict
	case tidegate.Corrupt:
		return Unverified
	case tidegate.Transient:
		return Unreachable
	case tidegate.Permanent:
	}
	var dial *net.OpError
	switch {
	case errors.As(err, &dial), errors.Is(err, context.DeadlineExceeded):
		return Unreachable
	case errors.Is(err, os.ErrNotExist):
		return NotFound
	}
	return Failed
}

func codeOfConnect(c connect.Code) (Code, bool) {
	//exhaustive:enforce
	switch c {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return Auth, true
	case connect.CodeInvalidArgument, connect.CodeOutOfRange, connect.CodeUnimplemented:
		return Usage, true
	case connect.CodeFailedPrecondition:
		return Refused, true
	case connect.CodeCanceled:
		return Aborted, true
	case connect.CodeNotFound:
		return NotFound, true
	case connect.CodeAlreadyExists, connect.CodeAborted:
		return Conflict, true
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeResourceExhausted:
		return Unreachable, true
	case connect.CodeDataLoss:
		return Unverified, true
	case connect.CodeUnknown, connect.CodeInternal:
	}
	return Failed, false
}

// untrusted reports whether err says that one end does not accept the other's
// certificate. A peer's refusal arrives as a TLS alert, which the standard
// library reports as an OpError of its own.
func untrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var op *net.OpError
	return errors.As(err, &verify) || errors.As(err, &authority) ||
		errors.As(err, &op) && op.Op == "remote error" ||
		errors.Is(err, pki.ErrOtherCluster) || errors.Is(err, pki.ErrUntrusted) ||
		errors.Is(err, pki.ErrOtherPeer) || errors.Is(err, pki.ErrNoIdentity)
}
