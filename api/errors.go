package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// RulesError is a refusal by named rules; it crosses the wire whole. It is
// wrapped in a *[tidegate.Error] of class refused.
type RulesError struct {
	Rules []*pb.RuleVerdict // all that were evaluated; those that do not hold are the refusal
}

// Failing returns the rules that do not hold, in the order they were evaluated.
func (e *RulesError) Failing() []*pb.RuleVerdict {
	var out []*pb.RuleVerdict
	for _, r := range e.Rules {
		if !r.GetHolds() {
			out = append(out, r)
		}
	}
	return out
}

func (e *RulesError) Error() string {
	msg := "refused by"
	sep := " "
	for _, r := range e.Failing() {
		msg += sep + r.GetRule() + " (" + r.GetReason() + ")"
		sep = ", "
	}
	return msg
}

// Error converts any error to what a handler returns. Class, hint, condition
// and rules cross as an [pb.ErrorDetail]; the text crosses as it is. nil is nil.
func Error(err error) error {
	if err == nil {
		return nil
	}
	var done *connect.Error
	if errors.As(err, &done) {
		return err
	}
	out := connect.NewError(codeOf(err), err)
	if d, derr := connect.NewErrorDetail(detailOf(err)); derr == nil {
		out.AddDetail(d)
	}
	return out
}

func detailOf(err error) *pb.ErrorDetail {
	d := &pb.ErrorDetail{
		Cause: err.Error(), Class: string(tidegate.ClassOf(err)), Hint: tidegate.HintOf(err), Condition: conditionOf(err),
	}
	var e *tidegate.Error
	if errors.As(err, &e) && error(e) == err { //nolint:errorlint // is it the outermost?
		d.Op, d.Subject, d.Cause = e.Op, e.Subject, e.Err.Error()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		d.Class = string(tidegate.Transient)
	}
	var rules *RulesError
	if errors.As(err, &rules) {
		d.Rules = rules.Rules
	}
	return d
}

// FromError converts what a client got back. The result is a *[tidegate.Error]
// whose tree has the remote's condition sentinel and, for a refusal by rules, a
// *[RulesError]. An error without our detail is classified by its Connect code:
// a peer that cannot be reached is transient. nil is nil.
func FromError(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return &tidegate.Error{Op: op, Subject: subject, Class: classOfBare(err), Err: err}
	}
	for _, d := range ce.Details() {
		v, verr := d.Value()
		if verr != nil {
			continue // a detail of a newer version; the code still classifies the error
		}
		if detail, ok := v.(*pb.ErrorDetail); ok {
			return &tidegate.Error{Op: op, Subject: subject, Class: tidegate.Class(detail.GetClass()), Hint: detail.GetHint(), Err: causeOf(op, subject, detail)}
		}
	}
	return &tidegate.Error{Op: op, Subject: subject, Class: classOfCode(ce.Code()), Err: errors.New(ce.Message())}
}

// remoteError has the remote's text and the local sentinel behind it.
type remoteError struct {
	text string
	tree []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.tree }

// causeOf is what the peer said, without the operation that the caller names too.
func causeOf(op, subject string, d *pb.ErrorDetail) error {
	text := d.GetCause()
	if d.GetOp() != "" && (d.GetOp() != op || d.GetSubject() != subject) {
		at := d.GetOp()
		if d.GetSubject() != "" {
			at += " " + d.GetSubject()
		}
		text = at + ": " + text
	}
	e := &remoteError{text: text}
	if s := sentinelOf(d.GetCondition()); s != nil {
		e.tree = append(e.tree, s)
	}
	if len(d.GetRules()) > 0 {
		e.tree = append(e.tree, &RulesError{Rules: d.GetRules()})
	}
	return e
}

var conditions = []struct {
	err  error
	cond pb.Condition
}{
	{tidegate.ErrFenced, pb.Condition_CONDITION_FENCED},
	{tidegate.ErrDiverged, pb.Condition_CONDITION_DIVERGED},
	{tidegate.ErrGap, pb.Condition_CONDITION_GAP},
	{tidegate.ErrFull, pb.Condition_CONDITION_FULL},
	{tidegate.ErrUnsupported, pb.Condition_CONDITION_UNSUPPORTED},
	{tidegate.ErrNotFound, pb.Condition_CONDITION_NOT_FOUND},
	{tidegate.ErrConflict, pb.Condition_CONDITION_CONFLICT},
	{tidegate.ErrStopped, pb.Condition_CONDITION_STOPPED},
	{tidegate.ErrGateClosed, pb.Condition_CONDITION_GATE_CLOSED},
	{tidegate.ErrDraining, pb.Condition_CONDITION_DRAINING},
}

func conditionOf(err error) pb.Condition {
	for _, c := range conditions {
		if errors.Is(err, c.err) {
			return c.cond
		}
	}
	return pb.Condition_CONDITION_UNSPECIFIED
}

func sentinelOf(cond pb.Condition) error {
	for _, c := range conditions {
		if c.cond == cond {
			return c.err
		}
	}
	return nil
}

func codeOf(err error) connect.Code {
	switch {
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return connect.CodeDeadlineExceeded
	case errors.Is(err, tidegate.ErrNotFound):
		return connect.CodeNotFound
	case errors.Is(err, tidegate.ErrConflict):
		return connect.CodeAborted
	case errors.Is(err, tidegate.ErrFull):
		return connect.CodeResourceExhausted
	case errors.Is(err, tidegate.ErrUnsupported):
		return connect.CodeUnimplemented
	}
	switch tidegate.ClassOf(err) {
	case tidegate.Transient:
		return connect.CodeUnavailable
	case tidegate.Corrupt:
		return connect.CodeDataLoss
	case tidegate.Fenced, tidegate.Refused:
		return connect.CodeFailedPrecondition
	case tidegate.Misuse:
		return connect.CodeInvalidArgument
	case tidegate.Permanent:
	}
	return connect.CodeInternal
}

func classOfCode(c connect.Code) tidegate.Class {
	switch c {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeCanceled, connect.CodeAborted, connect.CodeResourceExhausted:
		return tidegate.Transient
	case connect.CodeInvalidArgument, connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeNotFound, connect.CodeOutOfRange, connect.CodeAlreadyExists:
		return tidegate.Misuse
	case connect.CodeFailedPrecondition:
		return tidegate.Refused
	case connect.CodeDataLoss:
		return tidegate.Corrupt
	case connect.CodeUnknown, connect.CodeUnimplemented, connect.CodeInternal:
	}
	return tidegate.Permanent
}

func classOfBare(err error) tidegate.Class {
	if c := tidegate.ClassOf(err); c != tidegate.Permanent {
		return c
	}
	// Nothing came back from the peer, so nothing says that the request is wrong.
	return tidegate.Transient
}
