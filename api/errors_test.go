package api

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// over sends an error over the wire as far as a message goes: a connect error
// made anew from code, text and details.
func over(t *testing.T, err error) error {
	t.Helper()
	var ce *connect.Error
	if !errors.As(Error(err), &ce) {
		t.Fatalf("%v is not a connect error", err)
	}
	out := connect.NewError(ce.Code(), errors.New(ce.Message()))
	for _, d := range ce.Details() {
		out.AddDetail(d)
	}
	return out
}

func TestErrorsCrossWhole(t *testing.T) {
	rules := &RulesError{Rules: []*pb.RuleVerdict{{Rule: "rpo-bound", Reason: "unknown"}, {Rule: "target", Holds: true}}}
	for name, c := range map[string]struct {
		err   error
		class tidegate.Class
		is    error
	}{
		"fenced":    {&tidegate.Error{Op: "append", Subject: "s", Class: tidegate.Fenced, Hint: "stop", Err: tidegate.ErrFenced}, tidegate.Fenced, tidegate.ErrFenced},
		"conflict":  {&tidegate.Error{Op: "write", Class: tidegate.Transient, Hint: "stop", Err: fmt.Errorf("rev: %w", tidegate.ErrConflict)}, tidegate.Transient, tidegate.ErrConflict},
		"not found": {&tidegate.Error{Op: "show", Class: tidegate.Misuse, Hint: "stop", Err: tidegate.ErrNotFound}, tidegate.Misuse, tidegate.ErrNotFound},
		"refused":   {&tidegate.Error{Op: "failover", Class: tidegate.Refused, Hint: "stop", Err: rules}, tidegate.Refused, nil},
		"wrapped":   {fmt.Errorf("outer: %w", &tidegate.Error{Op: "x", Class: tidegate.Corrupt, Hint: "stop", Err: errors.New("y")}), tidegate.Corrupt, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := FromError("call", "gate", over(t, c.err))
			if tidegate.ClassOf(got) != c.class || tidegate.HintOf(got) != "stop" {
				t.Errorf("class %s, hint %q in %v", tidegate.ClassOf(got), tidegate.HintOf(got), got)
			}
			if c.is != nil && !errors.Is(got, c.is) {
				t.Errorf("%v lost its condition", got)
			}
		})
	}
	var r *RulesError
	if got := FromError("call", "", over(t, &tidegate.Error{Op: "f", Class: tidegate.Refused, Err: rules})); !errors.As(got, &r) || len(r.Failing()) != 1 {
		t.Errorf("rules were lost in %v", got)
	}
}

func TestAnOperationIsNamedOnce(t *testing.T) {
	remote := &tidegate.Error{Op: "show plan", Subject: "p1", Class: tidegate.Misuse, Err: tidegate.ErrNotFound}
	for op, want := range map[string]string{
		"show plan": "show plan p1: not found",
		"read":      "read p1: show plan p1: not found",
	} {
		if got := FromError(op, "p1", over(t, remote)).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestErrorsOfOthersAreClassifiedByCode(t *testing.T) {
	for code, want := range map[connect.Code]tidegate.Class{
		connect.CodeUnavailable: tidegate.Transient, connect.CodePermissionDenied: tidegate.Misuse,
		connect.CodeFailedPrecondition: tidegate.Refused, connect.CodeInternal: tidegate.Permanent,
	} {
		if got := tidegate.ClassOf(FromError("call", "", connect.NewError(code, errors.New("x")))); got != want {
			t.Errorf("%s: class %s, want %s", code, got, want)
		}
	}
	if got := tidegate.ClassOf(FromError("call", "", over(t, context.DeadlineExceeded))); got != tidegate.Transient {
		t.Errorf("deadline: class %s", got)
	}
	if FromError("call", "", nil) != nil || Error(nil) != nil {
		t.Error("nil became an error")
	}
}

func TestBoundsAndPositionsRoundTrip(t *testing.T) {
	for _, want := range []tidegate.Bounds{{}, {Records: 5, Bytes: tidegate.Unbounded, Window: 7}, {Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}} {
		if got, err := Bounds(BoundsMessage(want)); err != nil || got != want {
			t.Errorf("bounds %+v, %v, want %+v", got, err, want)
		}
	}
	want := tidegate.LogPos{Epoch: 3, Seq: 9, Chain: tidegate.Chain{1, 2}}
	if got, err := LogPos(LogPosMessage(want)); err != nil || got != want {
		t.Errorf("position %+v, %v", got, err)
	}
	if _, err := LogPos(&pb.LogPos{Chain: "zz"}); err == nil {
		t.Error("a broken chain was taken")
	}
	for _, m := range []tidegate.Mode{tidegate.ModeOpen, tidegate.ModeBounded, tidegate.ModeSync} {
		if Mode(ModeMessage(m)) != m {
			t.Errorf("mode %s", m)
		}
	}
}
