package fence

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/mutate"
)

// leaseAsksMax is how many asks may be unanswered: at five a second, as many as there
// are in the longest lease.
const leaseAsksMax = 5 * int(LeaseTTLMax/time.Second)

// leaseAsk is one ask for node leases: when it was sent, for how long.
type leaseAsk struct {
	number uint64
	at     tidegate.Instant
	ttl    time.Duration
}

// LeaseMargin is how much less than ttl a holder counts: both boot clocks may
// drift, and are far better than this, and a release takes its time to leave.
func LeaseMargin(ttl time.Duration) time.Duration { return ttl/50 + 5*time.Millisecond }

// AskLease returns the number of a new ask for node leases of ttl. now is the
// holder's boot clock, which goes on while the machine sleeps, read before the
// ask is sent: a lease counts from here.
func (w *Writer) AskLease(now tidegate.Instant, ttl time.Duration) (number uint64) {
	over := func(a leaseAsk) bool { return now >= a.at+tidegate.Instant(a.ttl) } // a grant is worth nothing
	for len(w.asks) > 0 && (len(w.asks) >= leaseAsksMax || over(w.asks[0])) {
		w.asks = w.asks[1:]
	}
	w.lastAsk++
	w.asks = append(w.asks, leaseAsk{w.lastAsk, now, ttl})
	return w.lastAsk
}

// OnLease takes a member's own statement that it granted ask number under epoch,
// passed on by whomever. now is the boot clock.
func (w *Writer) OnLease(m Member, epoch tidegate.Epoch, number uint64, now tidegate.Instant) {
	i := w.rec.Config.Index(m.Node)
	if w.fenced || epoch != w.epoch || i < 0 || w.members[i].Member != m || len(w.asks) == 0 {
		return
	}
	first := w.asks[0].number
	if number < first || number > w.lastAsk {
		return // nobody asked, or it is over
	}
	a := w.asks[number-first]
	from := a.at
	if mutate.Broken(mutate.LeaseCounted) {
		from = now
	}
	w.members[i].lease = max(w.members[i].lease, from+tidegate.Instant(a.ttl-LeaseMargin(a.ttl)))
}

// LeaseUntil returns the instant, on the holder's boot clock, until which W
// members have given their word to promise nobody else; 0 when they have not,
// or when the epoch is over. Ask again at each release: the record may have
// replaced a member since.
func (w *Writer) LeaseUntil() tidegate.Instant {
	if w.fenced || w.gaveUp {
		return 0
	}
	var top [MembersMax]tidegate.Instant // sorted, latest first
	for i := range w.members {
		j := i
		for ; j > 0 && top[j-1] < w.members[i].lease; j-- {
			top[j] = top[j-1]
		}
		top[j] = w.members[i].lease
	}
	return top[w.rec.Config.W-1]
}
