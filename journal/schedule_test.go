package journal

import (
	"context"
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/gating/release"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/rpo"
)

// schedule drives the real gate by random events, beside an oracle that only
// knows what the acknowledged outputs may be.
type schedule struct {
	g     *gate
	clock *clock.Fake
	marks []rpo.Mark // of every record, durable here
	start int        // records before the last activation

	epoch    tidegate.Epoch
	d        int // records durable at the other site
	known    bool
	grant    local.DaemonProgress
	granted  bool // a grant of this epoch is in force or was
	attached bool
	releases []ack // beyond d
}

type ack struct {
	upTo int // records
	at   tidegate.Instant
}

func newGate(clk clock.Clock) *gate {
	g := &gate{clock: clk, kick: func() {}, turn: func() {}}
	g.Gate = release.New(clk.Boot(), g.stepped)
	g.pace.init(clk.Boot())
	return g
}

func (s *schedule) position(records int) tidegate.Position {
	if records == 0 {
		return 0
	}
	return s.marks[records-1].Position
}

func (s *schedule) bytes(records int) int64 { return int64(s.position(records)) }

// TestRandomSchedules: at every instant the acknowledged beyond D is within the
// bounds, or the record had said that it need not be.
func TestRandomSchedules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &schedule{clock: clock.NewFake(testTime), epoch: 1}
		s.g = newGate(s.clock)
		if err := s.g.activate(rpo.Mark{}); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			s.clock.Advance(rapid.SampledFrom([]time.Duration{
				0, 0, time.Millisecond, 30 * time.Millisecond, 400 * time.Millisecond, time.Second, 6 * time.Second,
			}).Draw(t, "dt"))
			s.step(t)
			if rapid.Bool().Draw(t, "tick") {
				s.g.tick()
			}
		}
	})
}

func (s *schedule) step(t *rapid.T) {
	switch rapid.IntRange(0, 14).Draw(t, "event") {
	case 0, 1, 2: // a record becomes durable here
		n := rapid.Int64Range(30, 90).Draw(t, "bytes")
		last := s.g.Head
		m := rpo.Mark{Position: last.Position + tidegate.Position(n), Records: last.Records + 1, Bytes: last.Bytes + n}
		s.marks = append(s.marks, m)
		s.g.appended(m, []rpo.Mark{m})
	case 3, 4, 5, 6, 7, 8:
		s.release(t)
	case 9, 10: // the other site confirms
		if s.attached && len(s.marks) > 0 {
			s.d = max(s.d, rapid.IntRange(s.d, len(s.marks)).Draw(t, "D"))
			s.tell(t)
		}
	case 11: // the record, the policy, the bounds or the lease change
		if s.attached {
			s.change(t)
			s.tell(t)
		}
	case 12: // the agent goes, and comes back
		if s.attached {
			s.g.release(true)
			s.attached = false
			return
		}
		s.g.hold(s.epoch)
		s.attached = true
		if s.grant.Mode != "" {
			s.tell(t)
		}
	case 13: // kill -9 of the service, or another of its nodes takes over
		s.g.deactivate(ErrInactive)
		if err := s.g.activate(s.g.Head); err != nil {
			t.Fatal(err)
		}
		s.start, s.releases, s.granted = len(s.marks), nil, s.attached && s.grant.Mode != ""
		s.known = s.granted && s.d >= s.start
	case 14: // a new epoch
		s.epoch++
		s.g.hold(s.epoch)
		s.attached, s.granted = true, false
		if s.grant.Mode != "" {
			s.change(t)
			s.tell(t)
		}
	}
}

func (s *schedule) change(t *rapid.T) {
	limit := func(name string, values ...int64) int64 { return rapid.SampledFrom(values).Draw(t, name) }
	const none = int64(tidegate.Unbounded)
	mode := rapid.SampledFrom([]tidegate.Mode{tidegate.ModeOpen, tidegate.ModeBounded, tidegate.ModeSync}).Draw(t, "mode")
	b, _ := mode.Bounds(tidegate.Bounds{
		Records: limit("K", 0, 2, 7, none), Bytes: limit("B", 0, 200, none),
		Window: time.Duration(limit("T", 0, int64(time.Second), int64(5*time.Second), none)),
	})
	number := s.grant.Grant
	s.grant = local.DaemonProgress{
		Mode: mode, Bounds: b, Recorded: true, Grant: number + 1,
		Record: machine.Record(rapid.IntRange(0, 3).Draw(t, "record")),
		Policy: tidegate.Policy{
			Reaction: rapid.SampledFrom([]tidegate.Reaction{
				tidegate.ReactBlock, tidegate.ReactReject, tidegate.ReactDegrade, tidegate.ReactDegradeBlind,
			}).Draw(t, "reaction"),
			Rearm: time.Duration(rapid.IntRange(0, 10).Draw(t, "rearm")) * time.Second,
		},
		Brake:       rapid.IntRange(0, 4).Draw(t, "brake") == 0,
		Drain:       rapid.IntRange(0, 9).Draw(t, "drain") == 0,
		LeaseNeeded: rapid.Bool().Draw(t, "lease needed"),
		LeaseUntil:  s.clock.Boot() + tidegate.Instant(rapid.IntRange(-1, 4).Draw(t, "lease"))*tidegate.Instant(time.Second),
	}
}

func (s *schedule) tell(t *rapid.T) {
	if s.grant.Mode == "" {
		s.change(t)
	}
	m := s.grant
	m.D, m.DKnown, m.Epoch = s.position(s.d), true, s.epoch
	s.g.grant(&m)
	s.granted = true
	s.known = s.known || s.d >= s.start
	for len(s.releases) > 0 && s.releases[0].upTo <= s.d {
		s.releases = s.releases[1:]
	}
}

// release tries to let a random record's output go, and judges the answer.
func (s *schedule) release(t *rapid.T) {
	if len(s.marks) == 0 {
		return
	}
	n := rapid.IntRange(1, len(s.marks)).Draw(t, "release")
	c := class(rapid.IntRange(0, int(classCount)-1).Draw(t, "class"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it decides before it waits
	unbounded := s.g.Out.Unbounded
	_, err := s.g.await(ctx, s.position(n), c)
	if err != nil {
		if !errors.Is(err, context.Canceled) && !errors.Is(err, tidegate.ErrDraining) {
			t.Fatal(err)
		}
		return
	}
	if why := s.forbidden(n, c, unbounded); why != "" {
		t.Fatalf("record %d of %d released with D at %d, class %q: %s (grant %+v, state %s)",
			n, len(s.marks), s.d, c.mode(), why, s.grant, s.g.Out.State)
	}
	if n > s.d && (len(s.releases) == 0 || n > s.releases[len(s.releases)-1].upTo) {
		s.releases = append(s.releases, ack{upTo: n, at: s.clock.Boot()})
	}
}

// forbidden says why an output of record n must not have left now, "" if it may.
func (s *schedule) forbidden(n int, c class, unbounded bool) string {
	now := s.clock.Boot()
	permitted := s.grant.Record == machine.RecordDegraded || s.grant.Record == machine.RecordBlindOK
	_, already := s.releasedThrough()
	b := s.grant.Bounds
	open := b == tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}
	switch {
	case n <= s.d:
		return ""
	case c == classSync, c == classBounded && open:
		return "only what is durable may"
	case !s.granted:
		if n <= already {
			return ""
		}
		return "nothing was granted"
	case !s.known:
		return "what was released before the start is not known to be durable"
	case n <= already && (c == classStream || !unbounded):
		return "" // let go before, under what held then
	case s.grant.LeaseNeeded && now >= s.grant.LeaseUntil:
		return "no lease"
	case unbounded && !permitted:
		return "unbounded, and no record says so"
	case unbounded && c == classStream:
		return ""
	}
	switch t0, any := s.oldest(); {
	case int64(n-s.d) > b.Records:
		return "K"
	case s.bytes(n)-s.bytes(s.d) > b.Bytes:
		return "B"
	case !any && b.Window == 0, any && time.Duration(now-t0) >= b.Window:
		return "T"
	}
	return ""
}

func (s *schedule) releasedThrough() (tidegate.Instant, int) {
	if len(s.releases) == 0 {
		return 0, 0
	}
	last := s.releases[len(s.releases)-1]
	return last.at, last.upTo
}

func (s *schedule) oldest() (tidegate.Instant, bool) {
	for _, r := range s.releases {
		if r.upTo > s.d {
			return r.at, true
		}
	}
	return 0, false
}
