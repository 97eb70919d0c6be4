package shadow

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

// TestCourse: whichever step ends a drill, what came before is known, what did not come is
// not, and there is a recovery time only when a canary was taken.
func TestCourse(t *testing.T) {
	for last := Prepare; last <= Over; last++ {
		for _, e := range []Event{{Failed: "x"}, {Called: "y"}} {
			c, now := Course{}, tidegate.Instant(1000)
			for c.Step() < last {
				now += tidegate.Instant(c.Step()+1) * tidegate.Instant(time.Second)
				before := c.Step()
				if c = c.Next(Event{}, now); c.Step() != before+1 {
					t.Fatalf("%s follows %s", c.Step(), before)
				}
			}
			if last < Over {
				c = c.Next(e, now+1)
			}
			if c.Step() != Over {
				t.Errorf("%s: it goes on with %s", last, c.Step())
			}
			sum := time.Duration(0)
			for s := Prepare; s <= Over; s++ {
				took, known := c.Phase(s)
				if want := s.timed() && s < last; known != want || known && took != time.Duration(s+1)*time.Second {
					t.Errorf("ended in %s: %s took %s, %v", last, s, took, known)
				}
				sum += took
			}
			if rta, known := c.RTA(); known != (last > Verify) || known && rta != sum {
				t.Errorf("ended in %s: %s, %v", last, rta, known)
			}
			if got, at := c.Ended(); last < Over && (got != e || at != last) || last == Over && got != (Event{}) {
				t.Errorf("ended in %s: %+v in %s", last, got, at)
			}
			if again := c.Next(Event{Failed: "z"}, now+9); again != c {
				t.Errorf("after its end it became %+v", again)
			}
		}
	}
}
