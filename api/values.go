package api

import (
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
)

// IDText returns the wire form of an id: its text form, or "" for the zero id.
func IDText(id tidegate.ID) string {
	if id.IsZero() {
		return ""
	}
	return id.String()
}

// ParseID parses the wire form of an id; "" is the zero id.
func ParseID(what, s string) (tidegate.ID, error) {
	if s == "" {
		return tidegate.ID{}, nil
	}
	id, err := tidegate.ParseID(s)
	if err != nil {
		return id, fmt.Errorf("%s: %w", what, err)
	}
	return id, nil
}

// RequireID is [ParseID] refusing the zero id.
func RequireID(what, s string) (tidegate.ID, error) {
	id, err := ParseID(what, s)
	if err == nil && id.IsZero() {
		err = fmt.Errorf("%s: want an id", what)
	}
	return id, err
}

// LogPosMessage converts an end of a log; the empty log has no chain text.
func LogPosMessage(p tidegate.LogPos) *pb.LogPos {
	m := &pb.LogPos{Epoch: uint64(p.Epoch), Seq: uint64(p.Seq)}
	if !p.Chain.IsZero() {
		m.Chain = p.Chain.String()
	}
	return m
}

// LogPos converts back; nil is the empty log.
func LogPos(m *pb.LogPos) (tidegate.LogPos, error) {
	p := tidegate.LogPos{Epoch: tidegate.Epoch(m.GetEpoch()), Seq: tidegate.Seq(m.GetSeq())}
	if m.GetChain() == "" {
		return p, nil
	}
	if err := p.Chain.UnmarshalText([]byte(m.GetChain())); err != nil {
		return p, fmt.Errorf("log position: %w", err)
	}
	return p, nil
}

// ModeMessage converts a mode; an unknown one becomes unspecified.
func ModeMessage(m tidegate.Mode) pb.Mode {
	switch m {
	case tidegate.ModeOpen:
		return pb.Mode_MODE_OPEN
	case tidegate.ModeBounded:
		return pb.Mode_MODE_BOUNDED
	case tidegate.ModeSync:
		return pb.Mode_MODE_SYNC
	}
	return pb.Mode_MODE_UNSPECIFIED
}

// Mode converts back; unspecified is "".
func Mode(m pb.Mode) tidegate.Mode {
	switch m {
	case pb.Mode_MODE_OPEN:
		return tidegate.ModeOpen
	case pb.Mode_MODE_BOUNDED:
		return tidegate.ModeBounded
	case pb.Mode_MODE_SYNC:
		return tidegate.ModeSync
	case pb.Mode_MODE_UNSPECIFIED:
	}
	return ""
}

// BoundsMessage converts bounds; an unbounded quantity is an absent field.
func BoundsMessage(b tidegate.Bounds) *pb.Bounds {
	m := &pb.Bounds{}
	if b.Records != tidegate.Unbounded {
		m.Records = &b.Records
	}
	if b.Bytes != tidegate.Unbounded {
		m.Bytes = &b.Bytes
	}
	if b.Window != tidegate.Unbounded {
		m.Window = durationpb.New(b.Window)
	}
	return m
}

// Bounds converts back; nil has no limit at all.
func Bounds(m *pb.Bounds) (tidegate.Bounds, error) {
	b := tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}
	if m == nil {
		return b, nil
	}
	if m.Records != nil {
		b.Records = *m.Records
	}
	if m.Bytes != nil {
		b.Bytes = *m.Bytes
	}
	if m.Window != nil {
		if err := m.Window.CheckValid(); err != nil {
			return b, fmt.Errorf("bounds window: %w", err)
		}
		b.Window = m.Window.AsDuration()
	}
	return b, b.Validate()
}

// DurationMessage converts a duration; a negative one is "not known" and absent.
func DurationMessage(d time.Duration) *durationpb.Duration {
	if d < 0 || d == math.MaxInt64 {
		return nil
	}
	return durationpb.New(d)
}
