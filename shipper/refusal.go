package shipper

import (
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/wire"
)

// Code says what a refusal is about; the numbers are on the wire for ever.
type Code uint8

// The codes. Each implies the sentinel that [Refusal] unwraps to.
const (
	CodeInternal    Code = iota + 1 // the acceptor failed; nothing is known about the request
	CodeFenced                      // a newer epoch or another holder; see Promise
	CodeDiverged                    // same seq, another content
	CodeGap                         // the batch does not follow the log's end
	CodeFull                        // no space; try again
	CodeUnsupported                 // version, kind or message
	CodeNotFound                    // no such stream here
	CodeCorrupt                     // bytes are not what was sealed
	CodeLimbo                       // the node may not answer for this stream
	CodeRole                        // the certificate's role may not do this
	CodeNotAdopted                  // the node has promised this epoch but not adopted it yet
	CodeProtocol                    // the peer broke the rules of the session
	CodeStopping                    // the acceptor is shutting down or is at its connection limit
)

// ErrLimbo is what a refusal with CodeLimbo unwraps to: the node's copy is not
// trusted until the gate has let it back in.
var ErrLimbo = errors.New("node is in limbo")

// codes holds per code its text, its sentinel and the class that it has when
// the refusing side did not say.
var codes = [...]struct {
	text     string
	sentinel error
	class    tidegate.Class
}{
	CodeInternal:    {"internal", nil, tidegate.Transient},
	CodeFenced:      {"fenced", tidegate.ErrFenced, tidegate.Fenced},
	CodeDiverged:    {"diverged", tidegate.ErrDiverged, tidegate.Permanent},
	CodeGap:         {"gap", tidegate.ErrGap, tidegate.Permanent},
	CodeFull:        {"full", tidegate.ErrFull, tidegate.Transient},
	CodeUnsupported: {"unsupported", tidegate.ErrUnsupported, tidegate.Permanent},
	CodeNotFound:    {"not-found", tidegate.ErrNotFound, tidegate.Transient},
	CodeCorrupt:     {"corrupt", nil, tidegate.Corrupt},
	CodeLimbo:       {"limbo", ErrLimbo, tidegate.Transient},
	CodeRole:        {"role", nil, tidegate.Refused},
	CodeNotAdopted:  {"not-adopted", nil, tidegate.Transient},
	CodeProtocol:    {"protocol", nil, tidegate.Misuse},
	CodeStopping:    {"stopping", tidegate.ErrStopped, tidegate.Transient},
}

func (c Code) String() string {
	if c.known() {
		return codes[c].text
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

func (c Code) known() bool { return c > 0 && int(c) < len(codes) }

// Refusal is a typed no, the same value on both sides of the wire. It arrives
// inside a *[tidegate.Error]; reach it with errors.As.
type Refusal struct {
	Code    Code
	Class   tidegate.Class
	Message string
	Hint    string
	Promise fence.Promise // what the node has promised, with CodeFenced
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused as %s: %s", r.Code, r.Message)
}

// Unwrap returns the sentinel that the code stands for, or nil.
func (r *Refusal) Unwrap() error {
	if r.Code.known() {
		return codes[r.Code].sentinel
	}
	return nil
}

// Refuse builds a refusal with the class that the code implies.
func Refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Class: codes[code].class, Message: fmt.Sprintf(format, args...)}
}

// RefusalOf turns any error into what goes over the wire: the refusal inside
// it, or one with the code of the sentinel that it wraps.
func RefusalOf(err error) *Refusal {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	code := CodeInternal
	if _, ok := errors.AsType[*tidegate.CorruptError](err); ok {
		code = CodeCorrupt
	}
	for c, k := range codes {
		if code == CodeInternal && k.sentinel != nil && errors.Is(err, k.sentinel) {
			code = Code(c)
		}
	}
	r := &Refusal{Code: code, Class: tidegate.ClassOf(err), Message: err.Error(), Hint: tidegate.HintOf(err)}
	if code == CodeInternal || r.Class == "" {
		// Whatever went wrong inside the acceptor says nothing about the
		// request; the dialer may try again, here or elsewhere.
		r.Class = codes[code].class
	}
	return r
}

// arrived wraps a refusal as the error of op on subject.
func (r *Refusal) arrived(op, subject string) error {
	return &tidegate.Error{Op: op, Subject: subject, Class: r.Class, Hint: r.Hint, Err: r}
}

const (
	messageBytesMax = 1024 // of a refusal's or a close's text
	nameBytesMax    = tidegate.NameLenMax
)

func (r *Refusal) append(b []byte) []byte {
	b = wire.AppendU8(b, uint8(r.Code))
	b = wire.AppendString(b, string(r.Class))
	b = wire.AppendString(b, cut(r.Message))
	b = wire.AppendString(b, cut(r.Hint))
	return appendPromise(b, r.Promise)
}

func parseRefusal(body []byte) (*Refusal, error) {
	d := wire.NewDecoder(body)
	r := &Refusal{Code: Code(d.U8())}
	r.Class = tidegate.Class(d.String(nameBytesMax))
	r.Message = d.String(messageBytesMax)
	r.Hint = d.String(messageBytesMax)
	r.Promise = decodePromise(&d)
	switch r.Class {
	case tidegate.Transient, tidegate.Permanent, tidegate.Corrupt, tidegate.Fenced, tidegate.Misuse, tidegate.Refused:
	default:
		d.Fail("class %q", string(r.Class))
	}
	// An unknown code is a newer peer's: its class and text still say what to do.
	if r.Code == 0 {
		d.Fail("code 0")
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("parse refusal: %w", err)
	}
	return r, nil
}

func cut(s string) string { return s[:min(len(s), messageBytesMax)] }
