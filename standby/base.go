package standby

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// baseDirName is where bases are, in a stream's directory.
const baseDirName = "base"

// bases is what a stream knows of its bases; nil while its store is not known. Its fields are guarded by the stream's mu, the store guards itself.
type bases struct {
	s     *stream
	dir   string
	store *snapshot.Store
	// rooted: the stream begins at position 0 with nothing before it, as a journal's does.
	// As long as its log does, that says everything, and no base is lacking.
	rooted bool
	held   []snapshot.Listed         // read back whole, and written down; only these count
	judged map[snapshot.Name]verdict // of those for which it is known until the log is cut
	lost   []lostBase                // that were counted on, and found damaged at this start
	spans  []span                    // of the log's generations, as far as they were looked for
	now    *taking                   // nil: no base is on its way to this node
	sweep  *sweeping                 // nil: nothing is being cleared out; never begins while now is set
	// failed is how the last attempt to renew the base went.
	failed error
	// want is where the log of a node begins that this one would go on from, and has
	// no base for.
	want shipper.Begin
}

// span is where a generation begins in the log.
type span struct {
	generation tidegate.Generation
	first      tidegate.Seq
	opened     tidegate.Epoch // of the first batch
}

// taking is a base on its way to this node.
type taking struct {
	generation tidegate.Generation
	opened     tidegate.Epoch // 0: not known here
	from       string
	promise    fence.Promise // of the writer that pushes; zero when it is fetched
	meter      snapshot.Meter
	began      tidegate.Instant
	end        func(error)   // makes the session end
	done       chan struct{} // closed when the intake has been closed

	// What others follow of it.
	order  []arrival
	listed *snapshot.Listed // once it is held
	over   bool
}

// arrival is an extent that is in the store.
type arrival struct {
	place uint64
	name  snapshot.Name
}

// openBases opens the bases of a stream. The directory is
// the sign: it is made, durably, before the first batch of such a stream is taken,
// so that a node without a view cannot take one for a stream that needs none.
func (s *stream) openBases() error {
	dir := filepath.Join(s.dir, baseDirName)
	rooted, err := s.rooted()
	if err != nil {
		return err
	}
	if s.view.Store == "" {
		if known, err := exists(s.n.deps.FS, dir); err != nil || !known {
			return err
		}
	}
	if err := durable.MkdirAll(s.n.deps.FS, dir); err != nil {
		return err
	}
	if err := durable.SweepTemp(s.n.deps.FS, dir); err != nil {
		return err
	}
	store, err := snapshot.Open(s.n.deps.FS, dir, snapshot.StoreConfig{})
	if err != nil {
		return err
	}
	b := &bases{s: s, dir: dir, store: store, rooted: rooted}
	for _, fault := range store.Faults() {
		s.lg.Error("part of a base is not readable and does not count", keyErr, fault)
	}
	if err := b.readHeld(); err != nil {
		store.Close()
		return err
	}
	s.bases = b
	return nil
}

// rootedFile is the sign of a stream that needs no base as long as its log is whole.
const rootedFile = "rooted"

// rooted reports whether the stream is of a store whose log says everything. That is
// written down before there is a directory for bases, which is the sign that it needs
// some: a node without a view must not take one for the other.
func (s *stream) rooted() (bool, error) {
	path := filepath.Join(s.dir, rootedFile)
	known, err := exists(s.n.deps.FS, path)
	if err != nil || known || s.view.Store != storeJournal {
		return known, err
	}
	return true, durable.WriteFile(s.n.deps.FS, path, []byte("The log of this stream says everything, unless begin.json says that it was trimmed.\n"))
}

// whole returns the position up to which the log must reach before a generation of
// it and a base are a state: the earliest of the bases that are held and that the log
// goes on from. Of those that are of the log's history v is verdictOf; verdictOpen when
// there are only some of which that is to be seen; verdictNot when there is none. mu is
// held.
func (b *bases) whole(sp span) (to tidegate.Position, v verdict) {
	var begin shipper.Begin
	at := b.s.begun.Load()
	switch {
	case at != nil:
		begin = *at // while the log is being trimmed, where it will begin
	case b.rooted:
		return 0, verdictOf // the log begins with the stream
	}
	for _, want := range []verdict{verdictOf, verdictOpen} {
		if to, based := wholeAt(b.held, sp, begin, func(l *snapshot.Listed) bool { return b.verdict(l) == want }); based {
			return to, want
		}
	}
	return 0, verdictNot
}

// span finds where the generation of the batch at seq begins; mu is held.
func (b *bases) span(log *deltalog.Log, g tidegate.Generation, seq tidegate.Seq) (span, error) {
	for _, sp := range b.spans {
		if sp.generation == g {
			sp.first = max(sp.first, log.First()) // it may have been trimmed since
			return sp, nil
		}
	}
	low, high := log.First(), seq // the first with generation g is in [low, high]
	for low < high {
		mid := low + (high-low)/2
		_, h, err := log.At(mid)
		if err != nil {
			return span{}, err
		}
		if h.Generation >= g {
			high = mid
		} else {
			low = mid + 1
		}
	}
	_, h, err := log.At(low)
	if err != nil {
		return span{}, err
	}
	sp := span{g, low, h.Epoch}
	if first := log.First(); low == first && first > 1 {
		// The batch that opened the generation has gone, or this is it: what was
		// written down says who sealed that one.
		begin, known := b.s.begin()
		if !known || begin.Generation != g {
			return span{}, fmt.Errorf("who opened generation %d is not known: %w", g, tidegate.ErrNotFound)
		}
		sp.opened = begin.Opened
	}
	b.spans = append(b.spans, sp)
	return sp, nil
}

// cut forgets where generations begin, and what bases are of: the log's end has moved
// back, and may go on elsewhere; mu is held.
func (b *bases) cut() {
	if b != nil {
		b.spans, b.judged = nil, nil
	}
}

// counted returns how much of a log that is durable to end counts towards D: all
// of it, or everything before the first generation of which this node could rebuild
// no state. A log that cannot be read counts for nothing. mu is held.
//
// Invariant: of what is counted, base and log together are a state that the stream
// can be recovered to from this node alone. For the files of a base that was taken of
// a running service that takes the log through the base's End, which may arrive after
// the base: until then its generation counts no more than without a base.
func (s *stream) counted(end tidegate.LogPos) tidegate.LogPos {
	if s.bases == nil {
		return end
	}
	for end.Seq >= s.log.First() && end.Seq > 0 {
		_, h, err := s.log.At(end.Seq)
		if err != nil {
			return tidegate.LogPos{}
		}
		sp, err := s.bases.span(s.log, h.Generation, end.Seq)
		if err != nil {
			return tidegate.LogPos{}
		}
		if to, v := s.bases.whole(sp); v == verdictOf && h.Next >= to {
			return end
		}
		if sp.first == s.log.First() {
			break
		}
		if end, _, err = s.log.At(sp.first - 1); err != nil {
			return tidegate.LogPos{}
		}
	}
	return tidegate.LogPos{}
}

// ownAck is what this node states, given what its log would let it state: never
// more than what counts, and nothing at all before that reaches the head that the
// epoch began with, which a writer takes for granted. mu is held.
func (s *stream) ownAck(ack fence.Ack, ok bool) (fence.Ack, bool) {
	if !ok || s.bases == nil {
		return ack, ok
	}
	c := s.counted(s.core.DurablePos())
	if c.Seq >= ack.Durable {
		return ack, true
	}
	if c.Seq+1 < s.core.Adopted().StartSeq {
		return fence.Ack{}, false
	}
	ack.Durable, ack.Chain = c.Seq, c.Chain
	return ack, true
}

// vouch cuts a fence's answer to what counts: a head is never chosen from a log
// that nobody could start from. mu is held.
func (s *stream) vouch(r *fence.FenceReply) {
	if s.bases == nil {
		return
	}
	r.Durable = s.counted(r.Durable)
	for len(r.History) > 0 && r.History.Last().StartSeq > r.Durable.Seq+1 {
		r.History = r.History[:len(r.History)-1]
	}
}

// joined refuses an adopt that the log has carried out and the bases have not:
// who is counted from the head on must hold what makes it one.
func (s *stream) joined(req fence.AdoptRequest, r fence.AdoptReply) fence.AdoptReply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bases == nil || !r.Adopted || s.counted(req.Head).Seq >= req.Head.Seq {
		return r
	}
	r.Adopted, r.Class, r.Why = false, tidegate.Transient, "seeding: "+s.seeding()
	r.Durable = s.counted(r.Durable)
	return r
}

// seeding says what this node lacks to count for the end of its log, and how far
// that has come; empty when nothing is missing. mu is held.
func (s *stream) seeding() string {
	if s.bases == nil {
		return ""
	}
	g, _, lacks := s.lacks()
	t := s.bases.now
	switch {
	case !lacks:
		return s.shortOfBase()
	case t != nil:
		return t.text(s.n.deps.Clock.Boot())
	case g == 0:
		return "no base is held yet"
	}
	return fmt.Sprintf("the base of generation %d is not held", g)
}

// shortOfBase says that the log has yet to reach where its base is whole; empty when
// it has. mu is held.
func (s *stream) shortOfBase() string {
	end := s.core.DurablePos()
	if end.Seq < s.log.First() || end.Seq == 0 {
		return ""
	}
	_, h, err := s.log.At(end.Seq)
	if err != nil {
		return ""
	}
	sp, err := s.bases.span(s.log, h.Generation, end.Seq)
	if err != nil {
		return ""
	}
	if to, v := s.bases.whole(sp); v != verdictNot && h.Next < to {
		return fmt.Sprintf("the base of generation %d is whole at %s, the log is durable to %s", sp.generation, to, h.Next)
	}
	return ""
}

// lacks returns the generation at the log's end when no base is held that the log
// goes on from; 0 when the log is empty and nothing is held at all. mu is held.
func (s *stream) lacks() (g tidegate.Generation, opened tidegate.Epoch, lacks bool) {
	end := s.log.End().Seq
	if end < s.log.First() || end == 0 {
		return 0, 0, len(s.bases.held) == 0 && !s.bases.rooted || s.bases.wanting()
	}
	_, h, err := s.log.At(end)
	if err != nil {
		return 0, 0, true
	}
	sp, err := s.bases.span(s.log, h.Generation, end)
	if err != nil {
		return h.Generation, 0, true
	}
	_, v := s.bases.whole(sp)
	return sp.generation, sp.opened, v == verdictNot
}

// text says how far the base has come; the caller holds the stream's mu.
func (t *taking) text(now tidegate.Instant) string {
	p := t.meter.Progress()
	text := fmt.Sprintf("base of generation %d from %s: %d MiB", t.generation, t.from, p.Bytes>>20)
	if p.Total > 0 {
		text = fmt.Sprintf("%s of %d MiB", text, p.Total>>20)
	}
	if left, known := p.Left(time.Duration(now - t.began)); known {
		text = fmt.Sprintf("%s, about %s left", text, left.Round(time.Second))
	}
	return text
}

// refuseBase is the answer where a stream takes no base of the writer: the service
// beside a node gives those of a journal.
func (s *stream) refuseBase() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &tidegate.Error{
		Op: "take base of", Subject: s.id.String(), Class: tidegate.Permanent,
		Err: fmt.Errorf("a stream of store %q takes none from there: %w", s.view.Store, tidegate.ErrUnsupported),
	}
}

// begin makes t the base that is on its way, after ending the one before it. It
// returns the store's intake.
func (b *bases) begin(ctx context.Context, t *taking, why error) (*snapshot.Intake, error) {
	for {
		b.s.mu.Lock()
		old, sweep := b.now, b.sweep
		if old == nil {
			b.now = t
		}
		b.s.mu.Unlock()
		if old == nil {
			if err := sweep.finish(ctx); err != nil {
				b.finish(t, nil)
				return nil, err
			}
			break
		}
		old.end(why)
		select {
		case <-old.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	in, err := b.store.Intake()
	if err != nil {
		b.finish(t, nil)
		return nil, err
	}
	b.s.mu.Lock()
	b.s.ring()
	b.s.mu.Unlock()
	return in, nil
}

// finish lets another base be taken.
func (b *bases) finish(t *taking, in *snapshot.Intake) {
	if in != nil {
		if err := in.Close(); err != nil {
			// What was not sealed is found by the next intake, or crosses again.
			b.s.lg.Warn("close packs", keyErr, err)
		}
	}
	b.s.mu.Lock()
	b.now, t.over = nil, true
	b.s.ring()
	b.s.mu.Unlock()
	close(t.done)
}
