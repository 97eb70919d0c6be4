package standby

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
)

// settling is whether a library's journal is a beginning of the log, as far as
// that is known; the feeding goroutine's own.
type settling struct {
	done    bool    // it is: what it lacks may be fed
	rewound bool    // it was told to go back: nothing more is said in this session
	source  outside // its log, read from outside; nil until needed, and when it cannot be
	blind   bool    // it was said that the journal cannot be read
}

// journalState is what a library has said of its journal.
type journalState struct {
	lineage tidegate.Lineage
	end     tidegate.Position // of what it holds
	durable tidegate.Position // of what can be read from outside
}

// parting is where a library's journal leaves the log.
type parting struct {
	to    tidegate.Position // end of what both have
	epoch tidegate.Epoch    // of the log beyond it
}

// settle decides, before a library is fed or promoted, whether its journal is a
// beginning of the log. A primary that comes back may hold records that the
// stream went on without: those it leaves behind in its quarantine, and follows
// from where the two logs part. ok is false while that is not known, because the
// log here does not reach far enough yet, or the library is at it.
func (l *library) settle(ctx context.Context) (ok bool, err error) {
	if l.wasActive() {
		l.settled.done = false // it may have written since
	}
	if l.settled.done || l.settled.rewound {
		return l.settled.done, nil
	}
	j := l.journal()
	p, known, err := l.parting(ctx, j)
	switch {
	case err != nil || !known:
		return false, err
	case p == nil:
		l.settled.done = true
		return true, nil
	case j.durable < j.end:
		return false, nil // its newest records cannot be counted yet
	}
	return false, l.rewind(ctx, j, *p)
}

// wasActive reports, once, that the library has been active since it was asked last.
func (l *library) wasActive() bool {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	was := l.reborn
	l.reborn = false
	return was
}

func (l *library) journal() journalState {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	return journalState{l.own, l.progress.End, l.progress.L.Position}
}

// parting finds where journal and log part; nil when they do not. known is false
// while the log cannot tell.
func (l *library) parting(ctx context.Context, j journalState) (p *parting, known bool, err error) {
	if j.end == 0 {
		return nil, true, nil
	}
	own, err := parseHistory(j.lineage)
	if err != nil {
		return nil, false, err
	}
	lineage, err := l.s.logLineage()
	if err != nil {
		return nil, false, err
	}
	log, err := parseHistory(lineage)
	if err != nil {
		return nil, false, err
	}
	bound := beyondAll
	if own.root != "" && log.root != "" {
		if own.root != log.root {
			return nil, false, l.stranger(fmt.Errorf("it is %s, the log is of %s", own.root, log.root))
		}
		bound = own.parts(log)
	}
	if pro, ordered := l.s.ordered(); ordered {
		if l.target.forked(own, fork{pro.promise.Epoch, pro.at}) {
			return nil, true, nil // it has forked off as it was told: what it holds beyond is its own
		}
		if j.end > pro.at && bound > pro.at {
			return &parting{pro.at, pro.promise.Epoch}, true, nil
		}
	}
	return l.compare(ctx, j, bound)
}

// stranger is the error for a journal that has nothing in common with the log.
func (l *library) stranger(why error) error {
	return &tidegate.Error{
		Op: "feed library", Subject: l.hello.Dir, Class: tidegate.Permanent, Err: fmt.Errorf("journal is of another history: %w: %w", why, tidegate.ErrDiverged),
		Hint: "stop the service, move this journal aside, and let it follow from the beginning",
	}
}

// ordered returns the promotion under way.
func (s *stream) ordered() (promotion, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pro, t := s.apply.promotion, s.core.Adopted(); pro != nil && pro.promise == (fence.Promise{Epoch: t.Epoch, Holder: t.Holder}) {
		return *pro, true
	}
	return promotion{}, false
}

// compare finds where the two part: not beyond bound, where their lineages do, and
// before it where the content of what both hold is not the same.
func (l *library) compare(ctx context.Context, j journalState, bound tidegate.Position) (*parting, bool, error) {
	s := l.s
	s.mu.Lock()
	upTo := s.core.ApplyTo()
	s.mu.Unlock()
	if upTo == 0 {
		return nil, false, nil
	}
	_, last, err := s.log.At(upTo)
	if err != nil {
		return nil, false, err
	}
	if j.end > bound && last.Next <= bound || j.end <= bound && j.end > last.Next {
		return nil, false, nil // the log has yet to show how it goes on
	}
	limit := min(j.end, bound)
	differs, err := l.differs(ctx, last.Generation, min(limit, j.durable), upTo)
	if err != nil {
		return nil, false, err
	}
	equal := min(limit, differs)
	if equal >= j.end {
		return nil, true, nil
	}
	next, err := s.log.FindPosition(last.Generation, equal)
	if err != nil || next > upTo {
		return nil, false, err
	}
	_, h, err := s.log.At(next)
	return &parting{equal, h.Epoch}, err == nil, err
}

// differs returns the position of the first batch whose content the journal does
// not have, looking at batches that end at limit or before; beyondAll when the
// newest of them is the same: one that is follows others that are. The search
// goes back in growing steps, and halves.
func (l *library) differs(ctx context.Context, g tidegate.Generation, limit tidegate.Position, upTo tidegate.Seq) (tidegate.Position, error) {
	newest := upTo
	if at, err := l.s.log.FindPosition(g, limit); err == nil {
		newest = min(upTo, at-1)
	} else if !errors.Is(err, tidegate.ErrNotFound) {
		return 0, err
	}
	same, err := l.sameAt(ctx, newest)
	if same || err != nil {
		return beyondAll, err
	}
	first := l.s.log.First()
	low, high := first-1, newest // equal or before the log; different
	for step := tidegate.Seq(1); high-low > 1; step *= 2 {
		mid := high - min(step, high-low-1)
		if same, err = l.sameAt(ctx, mid); err != nil {
			return 0, err
		}
		if same {
			low = mid
			break
		}
		high = mid
	}
	for high-low > 1 {
		mid := low + (high-low)/2
		if same, err = l.sameAt(ctx, mid); err != nil {
			return 0, err
		}
		if same {
			low = mid
		} else {
			high = mid
		}
	}
	_, h, err := l.s.log.At(high)
	if err != nil {
		return 0, err
	}
	if _, f, err := l.s.log.At(first); err != nil || h.First <= f.First {
		return 0, errors.Join(err, l.stranger(fmt.Errorf("its content from %s on is not that of batch %s", h.First, high)))
	}
	return h.First, nil
}

// sameAt compares the newest batch with records at or before seq with the journal.
func (l *library) sameAt(ctx context.Context, seq tidegate.Seq) (bool, error) {
	for ; seq >= l.s.log.First() && seq > 0; seq-- {
		_, h, err := l.s.log.At(seq)
		if err != nil {
			return false, err
		}
		if h.Kind == batch.KindData {
			return l.same(ctx, &h)
		}
	}
	return true, nil
}

func (l *library) same(ctx context.Context, h *batch.Header) (bool, error) {
	if l.target.open == nil {
		return true, nil // the lineages have been compared, and what overlaps is compared by the library
	}
	src := l.captured()
	d, err := src.Reread(ctx, h.First, h.Next)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err == nil:
		return d == h.Digest, nil
	case l.readable(ctx) && !l.trimmed(ctx, h.First):
		return false, nil // no record begins, or ends, where the batch does
	}
	// Trimmed, or not to be read by this process. The lineages have been compared,
	// and what the library appends over its own records is compared by it.
	if !l.settled.blind {
		l.settled.blind = true
		l.s.lg.Warn("journal of the library is not compared with the log", "dir", l.hello.Dir, keyErr, err)
	}
	return true, nil
}

// readable reports whether this process can read the journal at all.
func (l *library) readable(ctx context.Context) bool {
	return l.opens(ctx, l.journal().durable) == nil
}

// trimmed reports whether the journal has left p behind.
func (l *library) trimmed(ctx context.Context, p tidegate.Position) bool {
	return errors.Is(l.opens(ctx, p), tidegate.ErrNotFound)
}

func (l *library) opens(ctx context.Context, p tidegate.Position) error {
	c, err := l.captured().Follow(ctx, p)
	if err != nil {
		return err
	}
	return c.Close()
}

// captured returns the journal, as it is read from outside.
func (l *library) captured() outside {
	if l.settled.source == nil {
		l.settled.source = l.target.open(l.s.n.deps.FS, l.hello.Dir)
	}
	return l.settled.source
}

// unsettle closes what settling has opened.
func (l *library) unsettle() error {
	if l.settled.source == nil {
		return nil
	}
	return l.settled.source.Close()
}

// rewind tells the library to leave behind what lies beyond the parting. What
// that is is written down before, and reported until the gate has it.
func (l *library) rewind(ctx context.Context, j journalState, p parting) error {
	tail := Tail{Next: j.end}
	if l.target.open != nil { // else the library says itself what it leaves behind
		var err error
		if tail, err = l.measure(ctx, j, p); err != nil {
			return fmt.Errorf("measure the journal's tail: %w", err)
		}
		if err := l.s.keepTail(tail); err != nil {
			return fmt.Errorf("write down the journal's tail: %w", err)
		}
	}
	l.s.lg.Warn("library told to rewind: the stream went on without its newest records", keyEpoch, uint64(p.epoch),
		"to", p.to.String(), "end", tail.Next.String(), "records", tail.Records, "dir", l.hello.Dir)
	l.settled.rewound = true
	if err := l.conn.Send(&local.Rewind{To: p.to, Epoch: p.epoch}); err != nil {
		return &tidegate.Error{Op: "tell library to rewind", Class: tidegate.Transient, Err: err}
	}
	return nil
}
