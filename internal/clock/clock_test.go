package clock_test

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
)

func TestSystemBootNeverGoesBack(t *testing.T) {
	c := clock.System()
	last := c.Boot()
	if last <= 0 {
		t.Fatalf("boot time %d", last)
	}
	for range 1000 {
		now := c.Boot()
		if now < last {
			t.Fatalf("boot time went from %d to %d", last, now)
		}
		last = now
	}
}

func TestFake(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := clock.NewFake(start)
	boot := c.Boot()
	c.Advance(time.Minute)
	c.Step(-time.Hour)
	if got := c.Boot() - boot; got != tidegate.Instant(time.Minute) {
		t.Errorf("boot time advanced by %d", got)
	}
	if got, want := c.Wall(), start.Add(time.Minute-time.Hour); !got.Equal(want) {
		t.Errorf("wall time %s, want %s", got, want)
	}
}
