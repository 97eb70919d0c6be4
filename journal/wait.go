package journal

import (
	"context"
	"sync"

	"github.com/tidegate/tidegate"
)

// waiter is one goroutine that waits for a position.
type waiter struct {
	p     tidegate.Position
	c     chan error // capacity 1: whoever wakes never blocks
	index int        // in the heap; -1 once woken
}

// waitlist is a min-heap of waiters by position, under its owner's lock. Waiters
// are reused: in steady state waiting allocates nothing.
type waitlist struct {
	heap []*waiter
	free []*waiter
}

// freeMax bounds the waiters kept for reuse.
const freeMax = 4096

func (l *waitlist) add(p tidegate.Position) *waiter {
	var w *waiter
	if n := len(l.free); n > 0 {
		w, l.free = l.free[n-1], l.free[:n-1]
	} else {
		w = &waiter{c: make(chan error, 1)}
	}
	w.p, w.index = p, len(l.heap)
	l.heap = append(l.heap, w)
	l.up(w.index)
	return w
}

// wake wakes everybody who waits for at most p, giving err.
func (l *waitlist) wake(p tidegate.Position, err error) {
	for len(l.heap) > 0 && l.heap[0].p <= p {
		w := l.heap[0]
		l.remove(w)
		w.c <- err
	}
}

func (l *waitlist) remove(w *waiter) {
	last := len(l.heap) - 1
	i := w.index
	l.swap(i, last)
	l.heap[last] = nil
	l.heap = l.heap[:last]
	w.index = -1
	if i < last {
		l.down(i)
		l.up(i)
	}
}

func (l *waitlist) swap(i, j int) {
	h := l.heap
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (l *waitlist) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if l.heap[parent].p <= l.heap[i].p {
			return
		}
		l.swap(i, parent)
		i = parent
	}
}

func (l *waitlist) down(i int) {
	for {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < len(l.heap) && l.heap[child].p < l.heap[least].p {
				least = child
			}
		}
		if least == i {
			return
		}
		l.swap(i, least)
		i = least
	}
}

// wait waits for w outside mu, which the list's owner holds, and takes mu
// again. When ctx ends first, w is withdrawn and ctx's error returned.
func (l *waitlist) wait(ctx context.Context, mu *sync.Mutex, w *waiter) error {
	mu.Unlock()
	var err error
	select {
	case err = <-w.c:
		mu.Lock()
	case <-ctx.Done():
		mu.Lock()
		if w.index >= 0 {
			l.remove(w)
			err = ctx.Err()
		} else {
			err = <-w.c // woken at the same time: what happened, happened
		}
	}
	if len(l.free) < freeMax {
		l.free = append(l.free, w)
	}
	return err
}
