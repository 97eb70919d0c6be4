package standby

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/journal/capture"
)

// storeJournal is the store whose log begins with its stream, and says everything as
// long as it was not trimmed behind a base.
const storeJournal = "journal"

// target is what the node must know of a store to settle a library with the log.
// It never looks inside a payload.
type target struct {
	// epochs says that a fork in its lineages is numbered by the epoch of the
	// promotion that made it. Otherwise only the place tells one.
	epochs bool
	// open reads the library's log from outside, to be compared with the log here.
	// Nil: it is not; lineages alone are, and what overlaps is the library's to compare.
	open func(fsys vfs.FS, dir string) outside
}

// outside is a library's log, read by this process.
type outside interface {
	stores.Source
	Close() error
}

// targetOf returns what is known of a store; of one that is not known, nothing.
func targetOf(store string) target {
	if store == storeJournal {
		return target{epochs: true, open: func(fsys vfs.FS, dir string) outside { return capture.New(fsys, dir) }}
	}
	return target{}
}

// forked reports whether a history was forked off as a promotion ordered.
func (t target) forked(h history, f fork) bool {
	if t.epochs {
		return h.has(f)
	}
	n := len(h.forks)
	return n > 0 && h.forks[n-1].at == f.at
}

// store returns the stream's, also for records from before there were others.
func (v *StreamView) store() string {
	if v.Store == "" {
		return storeJournal
	}
	return v.Store
}

// fit completes an order by the log's generation, and takes from a library of
// another one everything that is of this.
func (l *library) fit(o order) (order, error) {
	if o.upTo == 0 {
		return o, nil
	}
	if b, _ := l.s.begin(); b.Before.Seq == o.upTo {
		if l.hello.Generation == 0 {
			o.role.Generation = b.Generation
			return o, nil
		}
		return o, fmt.Errorf("the log begins behind batch %s, and nothing came yet: %w", o.upTo, tidegate.ErrGap)
	}
	_, h, err := l.s.log.At(o.upTo)
	if err != nil {
		return o, err
	}
	o.role.Generation = h.Generation
	if own := l.hello.Generation; own == 0 || own == h.Generation {
		return o, nil
	}
	o.prove = false
	l.s.mu.Lock()
	active := l.active
	l.s.mu.Unlock()
	if o.role.State == local.StateActive && !active {
		// Its positions are not those of H: it is promoted when it has the right base.
		o.role.State, o.role.Branch = local.StateFollow, 0
	}
	return o, nil
}

// Bases are the bases on this node from which a stream's log goes on now.
type Bases struct{ s *stream }

// Bases returns those of a stream. An error wraps tidegate.ErrNotFound while this
// node does not know of the stream, or the stream has none.
func (n *Standby) Bases(service tidegate.ServiceName, name tidegate.StreamName) (Bases, error) {
	for _, s := range n.all() {
		s.mu.Lock()
		is := s.view.Service == service && s.view.Name == name && s.bases != nil
		s.mu.Unlock()
		if is {
			return Bases{s}, nil
		}
	}
	return Bases{}, &tidegate.Error{
		Op: "find bases of", Subject: fmt.Sprintf("%s/%s", service, name), Class: tidegate.Transient, Err: tidegate.ErrNotFound,
		Hint: "the gate tells a node its streams; see `tidegate streams list`",
	}
}

// Bases lists those that are held and of the generation that is committed, by start,
// but for those of a history that the log went on without.
func (b Bases) Bases() []snapshot.Listed {
	return b.that(func(v verdict) bool { return v != verdictNot })
}

// useful lists those of Bases that the log has come through: base and log are a state.
func (b Bases) useful() []snapshot.Listed {
	return b.that(func(v verdict) bool { return v == verdictOf })
}

// that lists what is held of the generation that is committed, by what it is of.
func (b Bases) that(is func(verdict) bool) []snapshot.Listed {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	upTo := s.core.ApplyTo()
	if upTo == 0 {
		return nil
	}
	_, h, err := s.log.At(upTo)
	if err != nil {
		return nil // whoever reads the log says so
	}
	sp, err := s.bases.span(s.log, h.Generation, upTo)
	if err != nil {
		return nil
	}
	list := s.bases.store.Bases()
	return slices.DeleteFunc(list, func(l snapshot.Listed) bool {
		return l.Generation != sp.generation || l.Opened != sp.opened || !s.bases.holds(l.Generation, l.Opened) || !is(s.bases.verdict(&l))
	})
}

// Reader opens one that was listed.
func (b Bases) Reader(l snapshot.Listed) (*snapshot.Reader, error) { return b.s.bases.store.Reader(l) }
