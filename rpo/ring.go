package rpo

// ring is a queue of bounded length. When it is full, neighbours are merged two
// by two, which halves it: O(1) amortised per push, and the newest entries stay
// the finest. The first entry, the floor, is never merged. limit is a power of
// two, at least 4.
type ring[E any] struct {
	buf   []E // length is a power of two
	first int
	n     int
	limit int
	merge func(earlier, later E) E
}

const ringStart = 64

func newRing[E any](limit int, merge func(earlier, later E) E) ring[E] {
	return ring[E]{buf: make([]E, ringStart), limit: limit, merge: merge}
}

func (r *ring[E]) len() int   { return r.n }
func (r *ring[E]) at(i int) E { return r.buf[(r.first+i)&(len(r.buf)-1)] }
func (r *ring[E]) set(i int, e E) {
	r.buf[(r.first+i)&(len(r.buf)-1)] = e
}

func (r *ring[E]) pop() {
	r.first = (r.first + 1) & (len(r.buf) - 1)
	r.n--
}

func (r *ring[E]) push(e E) {
	if r.n == len(r.buf) {
		if r.n < r.limit {
			r.grow()
		} else {
			r.halve()
		}
	}
	r.n++
	r.set(r.n-1, e)
}

func (r *ring[E]) grow() {
	to := make([]E, 2*len(r.buf))
	for i := range r.n {
		to[i] = r.at(i)
	}
	r.buf, r.first = to, 0
}

// halve merges entries 1 and 2, 3 and 4, and so on; the last stays alone when
// their number is odd.
func (r *ring[E]) halve() {
	n := 1
	for i := 1; i < r.n; i += 2 {
		e := r.at(i)
		if i+1 < r.n {
			e = r.merge(e, r.at(i+1))
		}
		r.set(n, e)
		n++
	}
	r.n = n
}
