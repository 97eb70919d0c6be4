package standby

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

func TestGrowth(t *testing.T) {
	var g growth
	at := func(d time.Duration) tidegate.Instant { return tidegate.Instant(time.Hour + d) }
	if _, known := g.rate(); known {
		t.Error("measured from nothing")
	}
	for s := range 60 {
		g.add(at(time.Duration(s)*time.Second), int64(s)*100)
	}
	if _, known := g.rate(); known {
		t.Error("measured over less than a minute")
	}
	for s := 60; s < 3600; s++ {
		g.add(at(time.Duration(s)*time.Second), int64(s)*100)
	}
	if rate, known := g.rate(); !known || rate < 99.9 || rate > 100.1 {
		t.Errorf("rate %g, known %v, want 100 bytes per second", rate, known)
	}
	if n := len(g.samples); n > growthSamples+3 {
		t.Errorf("%d samples are kept", n)
	}
	for s := 3600; s < 3600+660; s++ { // the load stops
		g.add(at(time.Duration(s)*time.Second), 360_000)
	}
	if rate, known := g.rate(); !known || rate != 0 {
		t.Errorf("rate %g, known %v, want none after eleven quiet minutes", rate, known)
	}
	g.add(at(5000*time.Second), 10)
	if _, known := g.rate(); known {
		t.Error("a rate is known although the log has just been cut")
	}
}
