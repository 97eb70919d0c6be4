package live

import (
	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/assert"
	"github.com/tidegate/tidegate/drills/evidence"
)

// looked are the metrics that a look at the gates has.
var looked = []assert.Metric{assert.ExposureAge, assert.DurableNodes}

// values are what a sight says of a service, as assertions have it; a value that is not
// known of one of its streams is unknown.
func (s Sight) values(name tidegate.ServiceName) assert.Values {
	v := assert.Values{}
	if e := s.exposure(name); e.Blind != nil {
		v[assert.ExposureAge] = int64(*e.Blind)
	}
	for i, x := range s.service(name).GetStreams() {
		n := int64(x.GetMembersCounted())
		if least, ok := v[assert.DurableNodes]; i == 0 || ok && n < least {
			v[assert.DurableNodes] = n
		}
	}
	return v
}

// assertions are those of a drill while it looks. Pure.
type assertions struct{ judged, blocking []*assert.Watch }

func newAssertions(cfg *Config) (a assertions) {
	for _, one := range cfg.Assertions {
		a.judged = append(a.judged, assert.NewWatch(one))
	}
	for _, one := range cfg.Blocking {
		a.blocking = append(a.blocking, assert.NewWatch(one))
	}
	return a
}

// take holds them against a look, and says which blocking one is broken; empty: none.
func (a *assertions) take(now tidegate.Instant, v assert.Values) (broken string) {
	for _, one := range a.judged {
		one.Take(now, v)
	}
	for _, one := range a.blocking {
		one.Take(now, v)
		if broken == "" {
			broken = one.Broken(now)
		}
	}
	return broken
}

// soFar is the blocking assertion that does not hold before the drill begins; empty: each does.
func (a *assertions) soFar() string {
	for _, one := range a.blocking {
		if why := one.SoFar(); why != "" {
			return why
		}
	}
	return ""
}

// checks are what came of them.
func (a *assertions) checks() (all []evidence.Check) {
	for _, one := range a.blocking {
		all = append(all, one.Guarded())
	}
	for _, one := range a.judged {
		all = append(all, one.Check(evidence.KindAssertion))
	}
	return all
}
