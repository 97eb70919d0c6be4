package sim

import (
	"time"

	"github.com/tidegate/tidegate"
)

// computer is one machine: a clock, a disk, and processes that sleep together.
type computer struct {
	w      *world
	i      int
	name   tidegate.NodeName
	site   tidegate.SiteName
	clock  clock
	disk   disk
	asleep time.Duration // until; suspended
	hosts  []*host
}

// clock is a machine's own idea of time: it starts somewhere, drifts, and its wall
// part may be set. The boot clock goes on while the machine sleeps, the monotonic
// one does not.
type clock struct {
	boot  time.Duration // at world time 0
	wall  time.Duration // wall minus boot
	ppm   int64         // drift
	slept time.Duration
}

// The wall clock of world time 0.
var wallStart = time.Unix(1_800_000_000, 0).UTC()

func (m *computer) boot() tidegate.Instant {
	t := m.w.now
	return tidegate.Instant(m.clock.boot + t + t*time.Duration(m.clock.ppm)/1_000_000)
}

func (m *computer) wall() time.Time { return wallStart.Add(time.Duration(m.boot()) + m.clock.wall) }

// real returns how long d of this machine's time takes in the world.
func (m *computer) real(d time.Duration) time.Duration {
	return d - d*time.Duration(m.clock.ppm)/1_000_000
}

// suspend stops every process for d.
func (m *computer) suspend(d time.Duration) {
	if m.asleep > m.w.now {
		return
	}
	m.w.log(string(m.name), "", "suspend", "%s", d)
	m.asleep = m.w.now + d
	m.clock.slept += d
}

// host is a process. gen grows at every restart: timers of an earlier life are
// void. Its messages queue while it is paused.
type host struct {
	w      *world
	m      *computer
	i      int
	addr   string
	gen    int
	up     bool
	paused time.Duration // until; as by SIGSTOP
	recv   func(from *host, msg any)
}

func (m *computer) newHost(addr string, recv func(*host, any)) host {
	return host{w: m.w, m: m, addr: addr, recv: recv}
}

func (h *host) frozenUntil() time.Duration { return max(h.paused, h.m.asleep) }

// after runs fn on the host, by its machine's clock, unless it has gone down since.
func (h *host) after(d time.Duration, fn func()) { h.w.at(h.w.now+h.m.real(d), h, fn) }

func (h *host) every(d time.Duration, fn func()) {
	h.after(h.w.jitter(d), func() {
		fn()
		h.every(d, fn)
	})
}

func (h *host) pause(d time.Duration) {
	h.w.log(h.addr, "", "pause", "%s", d)
	h.paused = max(h.paused, h.w.now+d)
}

func (h *host) begin() {
	h.up = true
	h.gen++
}

func (h *host) end() {
	h.up = false
	h.gen++
}

// disk is what a machine's processes write to.
type disk struct {
	slow time.Duration // until: syncs take slowdown times as long
	full time.Duration // until: nothing can be appended
	bad  bool          // the next sync fails
}

const slowdown = 30

// syncTime returns how long a sync takes that begins now, and whether it fails.
func (m *computer) syncTime() (d time.Duration, failed bool) {
	d = m.w.jitter(2 * time.Millisecond)
	if m.disk.slow > m.w.now {
		d *= slowdown
	}
	failed, m.disk.bad = m.disk.bad, false
	return d, failed
}

func (m *computer) full() bool { return m.disk.full > m.w.now }
