package rates

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Burst is how much of its rate a bucket holds, as a time: short enough that
// what an operator slows down slows down at once, long enough that timers of a
// busy machine do not eat into the rate.
const Burst = 250 * time.Millisecond

// noLimit is the rate of a limiter that lets everything through.
const noLimit = -1

// Limiter holds back callers to one limit. It is made by [New].
type Limiter struct {
	// rate is per second, or noLimit. It is the only thing that is looked at
	// while there is no limit.
	rate atomic.Int64
	// turn is held by the waiter at the head of the queue; the runtime serves
	// those who are blocked on it in the order in which they came.
	turn chan struct{}

	mu      sync.Mutex
	balance float64       // tokens; negative after a piece that was larger than the bucket
	counted time.Time     // when balance was last brought up to date
	changed chan struct{} // closed and replaced at every change of rate
	waiting int
	waited  time.Duration // by those who have stopped waiting
	since   time.Time     // from when on those who wait have not been counted in waited
}

// NewLimiter returns one that no operator's file holds, of so many units a second.
func NewLimiter(perSecond int64) *Limiter {
	l := newLimiter()
	l.set(perSecond)
	return l
}

func newLimiter() *Limiter {
	l := &Limiter{turn: make(chan struct{}, 1), changed: make(chan struct{})}
	l.rate.Store(noLimit)
	return l
}

// Rate returns what is allowed each second. limited is false when everything
// is; 0 with limited means that nothing is.
func (l *Limiter) Rate() (perSecond int64, limited bool) {
	if r := l.rate.Load(); r != noLimit {
		return r, true
	}
	return 0, false
}

// Wait returns nil once n more may go, or the context's error. A negative n or
// 0 takes nothing and waits only while everything is stopped.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	if l.rate.Load() == noLimit {
		return nil
	}
	return l.wait(ctx, n)
}

// Take takes n if that is allowed now, and else says in how long it may be: an
// estimate that the next change of the limit makes wrong, so it is never longer
// than [PollEvery]. For callers that have other work meanwhile.
func (l *Limiter) Take(n int) (ok bool, after time.Duration) {
	if l.rate.Load() == noLimit {
		return true, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ok, after = l.take(time.Now(), n)
	return ok, min(after, PollEvery)
}

func (l *Limiter) wait(ctx context.Context, n int) error {
	l.enter()
	defer l.leave()
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.turn }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.mu.Lock()
		ok, after := l.take(time.Now(), n)
		changed := l.changed
		l.mu.Unlock()
		if ok {
			return nil
		}
		timer.Reset(after)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-timer.C:
		}
	}
}

// longest bounds one sleep: a piece of a megabyte at one byte a second is owed
// for days, and the timer must not overflow.
const longest = time.Hour

// take is the bucket; mu is held.
func (l *Limiter) take(now time.Time, n int) (ok bool, after time.Duration) {
	r := l.rate.Load()
	switch {
	case r == noLimit:
		return true, 0
	case r == 0:
		return false, longest
	}
	rate := float64(r)
	l.fill(now, rate)
	need := min(float64(n), bucket(rate))
	if l.balance >= need {
		l.balance -= float64(max(n, 0))
		return true, 0
	}
	wait := math.Ceil((need - l.balance) / rate * float64(time.Second))
	return false, time.Duration(min(wait, float64(longest)))
}

// fill adds what has come in since the last count, up to the bucket's size.
func (l *Limiter) fill(now time.Time, rate float64) {
	if elapsed := now.Sub(l.counted).Seconds(); elapsed > 0 {
		l.balance = min(l.balance+elapsed*rate, bucket(rate))
	}
	l.counted = now
}

// bucket is the size of the bucket in tokens: at least one, or a slow rate would
// never let anything through.
func bucket(rate float64) float64 { return max(1, rate*Burst.Seconds()) }

// set puts a rate in force and wakes those who wait.
func (l *Limiter) set(rate int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if old := l.rate.Load(); old > 0 {
		l.fill(now, float64(old)) // what was owed at the old rate stays owed
	} else {
		l.balance = 0 // a limit begins with an empty bucket: what went before it was not counted
	}
	l.counted = now
	l.rate.Store(rate)
	close(l.changed)
	l.changed = make(chan struct{})
}

// enter and leave count how long callers are held back.
func (l *Limiter) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(time.Now())
	l.waiting++
}

func (l *Limiter) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(time.Now())
	l.waiting--
}

// settle adds the time of those who wait now; mu is held.
func (l *Limiter) settle(now time.Time) {
	if l.waiting > 0 {
		l.waited += time.Duration(l.waiting) * now.Sub(l.since)
	}
	l.since = now
}

// held returns how many wait now, and how long all have waited so far together.
func (l *Limiter) held() (waiting int, waited time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(time.Now())
	return l.waiting, l.waited
}
