package recovery

import (
	"time"

	"github.com/tidegate/tidegate"
)

// origin says who sent an output.
type origin int

const (
	fromOld   origin = iota // the old writer, until the failure
	fromNew                 // the new writer
	fromStale               // the old writer, after the takeover
	origins
)

type delivery struct {
	Output

	from origin
}

// entry is what is known of one output.
type entry struct {
	golden, old, delivered          tidegate.Digest // delivered: the last time
	due, oldDue, byOld, byNew, open bool            // open: beyond what is kept for being right
}

func (e *entry) came() bool { return e.byOld || e.byNew }

// stream classifies the outputs of one stream.
type stream struct {
	name     tidegate.StreamName
	settings *Settings

	entries map[place]*entry
	queue   []place // due, the newest KeepMax of them
	due     int
	dueTo   place
	dropped place // entries up to here that are not in the map are as they are due
	drops   bool
	waiting []delivery // what is due has not come as far

	latest    [origins]*Output // the one before, by who sent it
	epochless bool             // an output after the takeover does not say its epoch

	before, after, traffic                    int // traffic: different outputs of the new writer
	lost, undone, beforeDiffers               Seen
	dup, dupDiff, newWrong, phantom, order    Seen
	stale, upgrade                            Seen
	retransmits, staleDelivered, incomparable int

	high, newHigh, run mark // delivered by anyone; by the new writer; by it since it last went back
	tail               int
	tailFrom, tailTo   mark
	tailAt             time.Duration
	bad                mark // the highest that was not as it is due, by the new writer
}

// mark is a place that may not be there.
type mark struct {
	place

	set bool
}

func (m *mark) raise(p place) {
	if !m.set || m.less(p) {
		m.place, m.set = p, true
	}
}

// below reports whether p lies below a mark that is set.
func (m *mark) below(p place) bool { return m.set && p.less(m.place) }

func newStream(name tidegate.StreamName, s *Settings) *stream {
	return &stream{name: name, settings: s, entries: map[place]*entry{}}
}

func (s *stream) id(p place) ID { return ID{s.name, p.input, p.ordinal} }

func (s *stream) entry(p place) *entry {
	e := s.entries[p]
	if e == nil {
		e = &entry{}
		s.entries[p] = e
	}
	return e
}

// content reports whether contents can be judged.
func (s *stream) content() bool { return s.settings.Due == DueContent }

// golden takes an output that is due, and the outputs that waited for it.
func (s *stream) golden(o Output) {
	p := o.ID.place()
	e := s.entry(p)
	e.due, e.golden = true, o.Digest
	s.due++
	s.dueTo = p
	if s.settings.KeepMax > 0 {
		s.queue = append(s.queue, p)
		for len(s.queue) > s.settings.KeepMax {
			s.forget(s.queue[0])
			s.queue = s.queue[1:]
		}
	}
	n := 0
	for n < len(s.waiting) && !p.less(s.waiting[n].ID.place()) {
		s.deliver(s.waiting[n])
		n++
	}
	s.waiting = s.waiting[n:]
}

// forget drops what is known of an output if it came as it is due; if it did not, it is
// kept until it does.
func (s *stream) forget(p place) {
	s.dropped, s.drops = p, true
	e := s.entries[p]
	e.open = true
	s.settle(p, e)
}

func (s *stream) settle(p place, e *entry) {
	if e.open && e.came() && (!s.content() || e.delivered == e.golden) {
		delete(s.entries, p)
	}
}

// arrive takes an output, which waits until it is known whether it is due.
func (s *stream) arrive(d delivery) {
	ahead := s.due == 0 || s.dueTo.less(d.ID.place())
	if len(s.waiting) > 0 || s.settings.Due != DueUnknown && ahead {
		s.waiting = append(s.waiting, d)
		return
	}
	s.deliver(d)
}

func (s *stream) deliver(d delivery) {
	last := s.latest[d.from]
	s.latest[d.from] = &d.Output
	if last != nil && last.ID == d.ID && last.Digest == d.Digest && last.Epoch == d.Epoch {
		s.retransmits++
		return
	}
	if d.from == fromStale {
		s.stale.add(d.ID)
		if s.settings.StaleRefused {
			return
		}
		s.staleDelivered++
	}
	p := d.ID.place()
	e := s.entries[p]
	settled := e == nil && s.drops && !s.dropped.less(p)
	switch {
	case settled:
		// It was delivered as it is due, or is not due at all, which is no longer known.
		s.incomparable++
		s.dup.add(d.ID)
		e = &entry{byOld: true}
	case e == nil:
		e = s.entry(p)
	}
	if d.from == fromNew {
		s.deliverNew(d, e, settled)
	} else {
		s.deliverOld(d, e, settled)
	}
	if s.ordered(e) {
		s.high.raise(p)
	}
	e.delivered = d.Digest
	if !settled {
		s.settle(p, e)
	}
}

// deliverOld takes an output of the old writer.
func (s *stream) deliverOld(d delivery, e *entry, settled bool) {
	if d.from == fromOld {
		s.before++
	}
	if settled {
		return
	}
	if e.came() {
		s.again(d, e)
	} else if s.incomparable == 0 && s.ordered(e) && s.high.below(d.ID.place()) {
		s.order.add(d.ID)
	}
	wanted := e.golden
	if e.oldDue {
		wanted = e.old
	}
	switch {
	case s.settings.Due == DueUnknown:
	case !e.due && !e.oldDue:
		s.undone.add(d.ID)
	case s.content() && d.Digest != wanted:
		s.beforeDiffers.add(d.ID)
	}
	e.byOld = true
}

// deliverNew takes an output of the new writer.
func (s *stream) deliverNew(d delivery, e *entry, settled bool) {
	p := d.ID.place()
	s.after++
	if !e.byNew {
		s.traffic++
	}
	late := false
	switch {
	case e.byNew && s.ordered(e):
		s.run = mark{p, true} // it goes back: what follows is compared with this
	case s.incomparable > 0: // perhaps it went back there
	case s.ordered(e) && (s.run.below(p) || !e.byOld && s.high.below(p)):
		late = true
		s.order.add(d.ID)
	}
	switch {
	case settled:
	case e.came():
		s.again(d, e)
	case s.content() && e.due && d.Digest != e.golden:
		s.newWrong.add(d.ID)
	}
	if s.settings.Due != DueUnknown && !e.due && !settled {
		s.phantom.add(d.ID)
	}
	e.byNew = true
	if s.ordered(e) {
		s.run.raise(p)
		s.newHigh.raise(p)
	}
	s.judge(d, e, late)
}

// ordered reports whether an output has a place among the others: one that is not due has
// none, whatever its id.
func (s *stream) ordered(e *entry) bool { return s.settings.Due == DueUnknown || e.due }

// judge makes an output of the new writer part of the tail, or ends the tail with it.
func (s *stream) judge(d delivery, e *entry, late bool) {
	p := d.ID.place()
	switch {
	case late:
		s.wrongAt(s.run)
	case !s.ordered(e):
		s.wrongAt(mark{})
	case d.Digest != e.golden:
		s.wrongAt(mark{p, true})
	case !s.bad.set || s.bad.less(p):
		s.rightAt(p, d.At)
	}
}

// again takes an output that was delivered already.
func (s *stream) again(d delivery, e *entry) {
	s.dup.add(d.ID)
	switch {
	case d.Digest == e.delivered:
	case e.oldDue && e.due && e.delivered == e.old && d.Digest == e.golden:
		s.upgrade.add(d.ID)
	default:
		s.dupDiff.add(d.ID)
	}
}

// wrongAt ends the tail: what comes now must lie behind m, if it is set.
func (s *stream) wrongAt(m mark) {
	if m.set {
		s.bad.raise(m.place)
	}
	s.tail, s.tailFrom, s.tailTo = 0, mark{}, mark{}
}

func (s *stream) rightAt(p place, at time.Duration) {
	if s.tailTo.set && !s.tailTo.less(p) {
		return // again
	}
	if s.tail == 0 {
		s.tailFrom, s.tailAt = mark{p, true}, at
	}
	s.tail++
	s.tailTo = mark{p, true}
}
