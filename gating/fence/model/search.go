package model

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Result is what a search found.
type Result struct {
	Config   Config
	States   int // distinct states seen, equal up to the names of nodes
	Depth    int // steps from the beginning to the farthest of them
	Complete bool
	Elapsed  time.Duration

	Broken Invariant // "" when every invariant held
	What   string    // how it was broken
	Trace  []string  // the shortest way there, one line a step
}

// Verdict says in a few words what the search showed.
func (r Result) Verdict() string {
	switch {
	case r.Broken != "":
		return fmt.Sprintf("%s broken in %d steps", r.Broken, len(r.Trace))
	case r.Complete:
		return "holds: exhausted"
	}
	return "holds: bounded"
}

// chunk is how many states a worker expands before its finds are merged.
const chunk = 512

// search is one breadth-first search.
type search struct {
	cfg    Config
	seen   table
	sums   []uint64 // by number of state
	parent []uint32
	depth  int
}

// found is a state that a worker had not seen before.
type found struct {
	sum    uint64
	parent uint32
	bad    violation
	to     state
}

// worker expands states; it owns its memory.
type worker struct {
	m    *machine
	k    canon
	news []found
}

// Search looks at every state of the world that cfg describes, nearest first,
// until one breaks an invariant, none is left, or cfg.States are seen. It uses
// workers goroutines; the result does not depend on how many, except for
// Elapsed. It keeps 20 bytes for a state seen and about 700 for a state at the
// frontier. It returns early with an error when ctx is done.
//
// States are told apart by 64-bit hashes: among two million the chance that two
// of them share one, and hide what lies behind, is below one in a million.
func Search(ctx context.Context, cfg Config, workers int) (Result, error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, err
	}
	began := time.Now()
	s := &search{cfg: cfg}
	ws := make([]*worker, max(1, workers))
	for i := range ws {
		ws[i] = &worker{m: newMachine(cfg)}
	}
	first := ws[0].m.initial()
	s.insert(ws[0].k.sum(&first, &cfg), 0)
	bad, complete, err := s.run(ctx, ws, first)
	if err != nil {
		return Result{}, err
	}
	r := Result{
		Config: cfg, States: len(s.sums), Depth: s.depth, Complete: complete,
		Elapsed: time.Since(began), Broken: bad.inv, What: bad.what,
	}
	if bad.inv != "" {
		r.Trace = s.trace(len(s.sums) - 1)
	}
	return r, nil
}

func (s *search) insert(sum uint64, parent uint32) {
	s.seen.put(sum, s.sums)
	s.sums, s.parent = append(s.sums, sum), append(s.parent, parent)
}

// run expands level after level. A state that breaks an invariant is the last
// one inserted.
func (s *search) run(ctx context.Context, ws []*worker, first state) (bad violation, complete bool, err error) {
	level, from := []state{first}, 0 // from is the number of level[0]
	for ; len(level) > 0; s.depth++ {
		var next []state
		for at := 0; at < len(level); at += chunk * len(ws) {
			if err := ctx.Err(); err != nil {
				return violation{}, false, err
			}
			s.expand(ws, level, at, from)
			for _, w := range ws {
				for i := range w.news {
					f := &w.news[i]
					if f.bad.inv != "" {
						// The step is what is broken: its state may have been seen before.
						s.sums, s.parent = append(s.sums, f.sum), append(s.parent, f.parent)
						s.depth++
						return f.bad, false, nil
					}
					if s.seen.has(f.sum, s.sums) {
						continue
					}
					s.insert(f.sum, f.parent)
					next = append(next, f.to)
				}
			}
			if s.cfg.States > 0 && len(s.sums) >= s.cfg.States {
				return violation{}, false, nil
			}
		}
		from += len(level)
		level = next
	}
	s.depth--
	return violation{}, true, nil
}

// expand lets every worker expand its part of the states from at on. Nothing is
// inserted meanwhile, so they share the table.
func (s *search) expand(ws []*worker, level []state, at, from int) {
	var wg sync.WaitGroup
	for i, w := range ws {
		lo := min(at+i*chunk, len(level))
		hi := min(lo+chunk, len(level))
		w.news = w.news[:0]
		if i+1 == len(ws) || lo == hi {
			w.expand(s, level[lo:hi], from+lo)
			continue
		}
		wg.Go(func() { w.expand(s, level[lo:hi], from+lo) })
	}
	wg.Wait()
}

func (w *worker) expand(s *search, part []state, from int) {
	for i := range part {
		for _, x := range w.m.successors(&part[i]) {
			sum := w.k.sum(&x.to, &s.cfg)
			if x.bad.inv != "" || !s.seen.has(sum, s.sums) {
				w.news = append(w.news, found{sum, uint32(from + i), x.bad, x.to})
			}
		}
	}
}

// trace tells the way to a state again, from the beginning and with nodes that
// keep their names: the search has only kept who followed whom.
func (s *search) trace(to int) []string {
	var way []uint64
	for ; to != 0; to = int(s.parent[to]) {
		way = append(way, s.sums[to])
	}
	m, k := newMachine(s.cfg), canon{}
	at := m.initial()
	var lines []string
	for i := len(way) - 1; i >= 0; i-- {
		for _, x := range m.successors(&at) {
			copied := x.to
			if k.sum(&copied, &s.cfg) == way[i] {
				lines = append(lines, m.describe(&at, &x.to, x.move))
				at = x.to
				break
			}
		}
	}
	return lines
}

// table maps the hash of a state to its number, by open addressing. It holds no
// hashes of its own: they are in sums.
type table struct {
	slots []uint32 // number + 1
	used  int
}

func (t *table) has(sum uint64, sums []uint64) bool {
	if len(t.slots) == 0 {
		return false
	}
	mask := uint64(len(t.slots) - 1)
	for i := sum & mask; t.slots[i] != 0; i = (i + 1) & mask {
		if sums[t.slots[i]-1] == sum {
			return true
		}
	}
	return false
}

// put adds sum under the number len(sums). It must not be there.
func (t *table) put(sum uint64, sums []uint64) {
	if 2*(t.used+1) > len(t.slots) {
		old := t.slots
		t.slots = make([]uint32, max(1024, 2*len(old)))
		for _, n := range old {
			if n != 0 {
				t.place(sums[n-1], n)
			}
		}
	}
	t.place(sum, uint32(len(sums)+1))
	t.used++
}

func (t *table) place(sum uint64, n uint32) {
	mask := uint64(len(t.slots) - 1)
	i := sum & mask
	for t.slots[i] != 0 {
		i = (i + 1) & mask
	}
	t.slots[i] = n
}
