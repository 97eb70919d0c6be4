package tidegate

import (
	"errors"
	"fmt"
	"strings"
)

// Class says what may be done about an error; it crosses the wire, so that a
// remote refusal is as classifiable as a local one. Whoever produced an error
// classifies it; a retry loop only asks.
type Class string

// The classes. The zero value means "not classified" and is treated as permanent.
const (
	Transient Class = "transient" // try again: nothing is wrong with the request
	Permanent Class = "permanent" // trying again will not help
	Corrupt   Class = "corrupt"   // bytes are not what was written
	Fenced    Class = "fenced"    // a newer epoch holds the stream; stop, never retry under the old one
	Misuse    Class = "misuse"    // the caller or the configuration is wrong
	Refused   Class = "refused"   // a rule said no; nothing changed
)

// Conditions that more than one package reports. Test with [errors.Is].
var (
	ErrFenced      = errors.New("fenced by a newer epoch")
	ErrDiverged    = errors.New("logs diverged")
	ErrGap         = errors.New("gap in the log")
	ErrFull        = errors.New("no space left")
	ErrUnsupported = errors.New("not supported by this version")
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("changed by somebody else")
	ErrDenied      = errors.New("access denied") // by another product's rules: of a bucket, of a key service
	ErrStopped     = errors.New("component has stopped")
	ErrGateClosed  = errors.New("gate closed") // the bounds are reached and the policy is to refuse new work; try again later
	ErrDraining    = errors.New("draining")    // a planned handover is under way; the work belongs to the next writer
)

// Error carries what a caller needs to decide and an operator needs to act.
// Message form: "op subject: cause"; the hint is printed on a line of its own.
type Error struct {
	Op      string // what was tried: "open journal"
	Subject string // on what: a path, a stream, a batch; may be empty
	Class   Class
	Hint    string // what to do next; may be empty
	Err     error  // the cause; never nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Subject != "" {
		b.WriteByte(' ')
		b.WriteString(e.Subject)
	}
	b.WriteString(": ")
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of the outermost classified error in err's tree. A
// bare sentinel has the class that its condition implies.
func ClassOf(err error) Class {
	var e *Error
	for rest := err; errors.As(rest, &e); rest = e.Err {
		if e.Class != "" {
			return e.Class
		}
	}
	var c *CorruptError
	switch {
	case errors.As(err, &c):
		return Corrupt
	case errors.Is(err, ErrFenced):
		return Fenced
	case errors.Is(err, ErrFull), errors.Is(err, ErrConflict), errors.Is(err, ErrGateClosed), errors.Is(err, ErrDraining):
		return Transient
	}
	return Permanent
}

// HintOf returns the outermost non-empty hint in err's tree, or "".
func HintOf(err error) string {
	var e *Error
	for rest := err; errors.As(rest, &e); rest = e.Err {
		if e.Hint != "" {
			return e.Hint
		}
	}
	return ""
}

// CorruptError says which bytes are not what was written. The bytes are left
// in place or moved to quarantine, never deleted.
type CorruptError struct {
	Path   string // file
	Offset int64  // of the unreadable record, in bytes from the file's start; -1 when unknown
	What   string // "checksum mismatch (want 9b1c20aa, got 00000000)"
}

func (e *CorruptError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.What)
	}
	return fmt.Sprintf("%s: record at %d: %s", e.Path, e.Offset, e.What)
}
