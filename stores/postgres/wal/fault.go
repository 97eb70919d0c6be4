package wal

import (
	"fmt"

	"github.com/tidegate/tidegate"
)

// FaultKind says what about a byte cannot be log.
type FaultKind string

// The kinds of faults. End is what a server's own files show behind its newest
// record: never a fault of a stream that was flushed, but an error there.
const (
	FaultGap      FaultKind = "gap"      // bytes were pushed that do not follow the last
	FaultVersion  FaultKind = "version"  // pages of a release that is not supported, or not the one named
	FaultSystem   FaultKind = "system"   // pages of another system, segment size or page size
	FaultTimeline FaultKind = "timeline" // a page of a timeline that does not belong there
	FaultPage     FaultKind = "page"     // no page header where one must be
	FaultEnd      FaultKind = "end"      // zeros, or an older page, where a record or page must be
	FaultRecord   FaultKind = "record"   // no record header where one must be
	FaultLink     FaultKind = "link"     // the record does not follow the one before: another history
	FaultChecksum FaultKind = "checksum" // the record's bytes are not what was written
)

// Fault is the cause in every error of a [Parser]: find it with errors.As.
type Fault struct {
	Kind FaultKind
	At   LSN    // of the page or record that is wrong
	End  LSN    // the last record end before it; 0 when none was found yet
	What string // "record is 19 bytes long: want 24 or more"
}

// Error returns the cause without the place.
func (f *Fault) Error() string { return f.What }

// class returns how the world sees a fault, and what to do about it.
func (f *Fault) class() (class tidegate.Class, hint string) {
	switch f.Kind {
	case FaultGap:
		return tidegate.Transient, ""
	case FaultVersion:
		return tidegate.Permanent, "supported are PostgreSQL " + versionNames() + "; both sites run the same major version"
	case FaultSystem, FaultTimeline, FaultLink:
		return tidegate.Corrupt, "this is the log of another history; if the server was set back to an older state, the stream needs a new generation"
	case FaultPage, FaultEnd, FaultRecord, FaultChecksum:
	}
	return tidegate.Corrupt, "compare with pg_waldump on the server; nothing from here on was taken"
}

// fault returns the error that stops the parser.
func (p *Parser) fault(kind FaultKind, at LSN, format string, args ...any) error {
	f := &Fault{Kind: kind, At: at, End: p.end, What: fmt.Sprintf(format, args...)}
	e := &tidegate.Error{Op: "read wal", Subject: at.String(), Err: f}
	e.Class, e.Hint = f.class()
	switch kind {
	case FaultGap:
		e.Err = fmt.Errorf("%w: %w", f, tidegate.ErrGap)
	case FaultVersion:
		e.Err = fmt.Errorf("%w: %w", f, tidegate.ErrUnsupported)
	case FaultLink, FaultTimeline, FaultSystem:
		e.Err = fmt.Errorf("%w: %w", f, tidegate.ErrDiverged)
	default:
	}
	p.err = e
	return e
}
