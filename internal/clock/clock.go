package clock

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate"
)

// Clock reads boot time and wall time. It is a parameter of every component
// that decides by time.
type Clock interface {
	// Boot returns the time since this machine booted, suspend included.
	Boot() tidegate.Instant
	// Wall returns the civil time, which may step either way at any moment.
	Wall() time.Time
}

// System returns the kernel's clocks: CLOCK_BOOTTIME and the wall clock.
func System() Clock { return system{} }

type system struct{}

func (system) Boot() tidegate.Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// The call fails only for an unknown clock id or a bad pointer.
		panic("clock: read CLOCK_BOOTTIME: " + err.Error())
	}
	return tidegate.Instant(ts.Nano())
}

func (system) Wall() time.Time { return time.Now() }

// Fake is a clock that moves only when told to.
type Fake struct {
	mu   sync.Mutex
	boot tidegate.Instant
	wall time.Time
}

// NewFake returns a clock whose wall time is start and whose boot time is one
// second: 0 means "never" and must not be what a test reads by accident.
func NewFake(start time.Time) *Fake {
	return &Fake{boot: tidegate.Instant(time.Second), wall: start}
}

// Boot implements [Clock].
func (f *Fake) Boot() tidegate.Instant {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.boot
}

// Wall implements [Clock].
func (f *Fake) Wall() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wall
}

// Advance moves both clocks forward by d, as time passing (or a suspend) does.
func (f *Fake) Advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boot += tidegate.Instant(d)
	f.wall = f.wall.Add(d)
}

// Step moves the wall clock alone by d, either way, as an operator or NTP does.
func (f *Fake) Step(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wall = f.wall.Add(d)
}
