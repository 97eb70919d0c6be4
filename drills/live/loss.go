package live

import (
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
)

// Names of the checks on what was lost.
const (
	checkCanaries  = "acknowledged-canaries"
	checkStatement = "loss-statement"
)

// judgeLoss checks what is missing of a service's canaries: against its mode, and against
// what the gate has claimed of the change of role. statement is nil where no role changed,
// which loses nothing; rpo is 0 where none is set. That of the drill's own service is
// judged with the report; that of one beside it, at level L4, here.
func judgeLoss(l Lost, mode *tidegate.Mode, statement *pb.LossStatement, rpo time.Duration, beside bool) []evidence.Check {
	got := l.String()
	c := evidence.Check{Name: checkCanaries, Kind: "canary", Wanted: "every acknowledged canary is there", Got: &got, Outcome: evidence.CheckPassed}
	switch {
	case l.Asked == 0:
		c.Got, c.Outcome, c.Why = nil, evidence.CheckUnknown, "no canary was acknowledged, or none was looked up"
	case l.Records > 0 && (statement == nil || mode != nil && *mode == tidegate.ModeSync):
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("%s, the first is %s, and nothing acknowledged may be lost%s", got, l.First, inMode(mode))
	case l.Records > 0 && rpo == 0:
		c.Outcome, c.Why = evidence.CheckUnknown, got+", and no RPO says how much may be"
	case beside && l.Span > rpo && l.Records > 0:
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf("%s, over %s, and the RPO is %s", got, l.Span.Round(time.Millisecond), rpo)
	case l.Unknown > 0:
		c.Outcome, c.Why = evidence.CheckUnknown, fmt.Sprintf("nobody answered for %d of them", l.Unknown)
	case l.Records > 0:
		c.Wanted = "no more acknowledged canaries are missing than RPO and loss statement allow"
	}
	if statement == nil {
		return []evidence.Check{c}
	}
	return []evidence.Check{c, covers(l, statement)}
}

func inMode(m *tidegate.Mode) string {
	if m == nil {
		return ""
	}
	return " in mode " + string(*m)
}

// covers checks that what is missing is within what the gate has claimed.
func covers(l Lost, s *pb.LossStatement) evidence.Check {
	got := fmt.Sprintf("%d records over %s", l.Records, l.Inner.Round(time.Millisecond))
	c := evidence.Check{Name: checkStatement, Kind: "gate", Got: &got, Outcome: evidence.CheckPassed}
	fail := func(format string, args ...any) {
		c.Outcome, c.Why = evidence.CheckFailed, fmt.Sprintf(format, args...)
	}
	b := s.GetBounds()
	switch s.GetKind() {
	case pb.LossKind_LOSS_KIND_ZERO:
		c.Wanted = "nothing acknowledged is lost"
		if l.Records > 0 {
			fail("zero loss was claimed, and %s", l)
		}
	case pb.LossKind_LOSS_KIND_AT_MOST:
		c.Wanted = "at most"
		if b != nil && b.Records != nil {
			c.Wanted += fmt.Sprintf(" %d records", b.GetRecords())
			if int64(l.Records) > b.GetRecords() {
				fail("at most %d records was claimed, and %s", b.GetRecords(), l)
			}
		}
		if w := b.GetWindow(); w != nil {
			c.Wanted += " " + w.AsDuration().String()
			if l.Inner > w.AsDuration() {
				fail("at most %s was claimed, and acknowledgements of %s are missing", w.AsDuration(), l.Inner)
			}
		}
		if b == nil || b.Records == nil && b.GetWindow() == nil {
			c.Wanted, c.Outcome, c.Why = "a bound", evidence.CheckUnknown, "the claim has neither records nor a time"
		}
	default:
		c.Wanted, c.Outcome, c.Why = "a claim", evidence.CheckUnknown, "the gate claims nothing: "+s.GetWhy()
	}
	if l.Asked == 0 || l.Unknown > 0 && c.Outcome == evidence.CheckPassed {
		c.Outcome, c.Why = evidence.CheckUnknown, "not every acknowledged canary was looked up"
	}
	return c
}
