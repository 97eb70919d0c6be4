package archive

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
)

// survey is what is known of a stream's segments in the bucket, seen from one log in
// one epoch.
type survey struct {
	Coverage
	known   bool
	history History
	ahead   []Segment      // beyond the log's end: what they are shows when it has got there
	newest  []tidegate.Seq // where the newest segments of the log begin, ascending; a listing goes on there
	against error
	at      tidegate.Instant // of the last listing
	fullAt  tidegate.Instant // of the last one from the beginning
}

// overlap is how many segments back a listing begins: writers that overlapped may
// have put segments that begin before the newest one.
const overlap = 16

// Of [Policy.Look]: how often who uploads looks what others have put, and how often
// everything is listed again while something is not as it should be.
const (
	holderLooks = 5
	fullLooks   = 15
)

// stale makes the next look begin anew.
func (v *survey) stale() { v.known = false }

// take notes a segment.
func (v *survey) take(s Segment) error {
	r, err := v.history.Relate(s)
	switch {
	case err != nil:
		return err
	case r == Against && v.against == nil:
		v.against = &tidegate.Error{
			Op: "archive stream", Subject: fmt.Sprintf("segment %s", s), Class: tidegate.Refused, Err: fmt.Errorf("it is not of this log, which has adopted epoch %s and ends at batch %d: %w", v.history.Epoch, v.history.End, tidegate.ErrDiverged),
			Hint: "nothing is uploaded until the archive and this log agree: is another cluster writing to the bucket, or was the registry put back? `tidegate verify` reads the archive",
		}
	case r == Ahead:
		v.ahead = append(v.ahead, s)
	case r == Same, r == Below:
		v.Add(Range{s.First, s.Last})
		if v.newest = append(v.newest, s.First); len(v.newest) > overlap {
			v.newest = slices.Delete(v.newest, 0, 1)
		}
	}
	return nil
}

// letGo takes what is not there any more and is not missing, as far as it was of this log.
func (v *survey) letGo(log []Gone) error {
	for _, g := range log {
		r, err := v.history.Relate(g.segment())
		if err != nil {
			return err
		}
		if r == Same || r == Below {
			v.Add(Range{g.First, g.Last})
		}
	}
	return nil
}

// settle looks again at what was beyond the log's end.
func (v *survey) settle() error {
	was := v.ahead
	v.ahead = nil
	for _, s := range was {
		if err := v.take(s); err != nil {
			v.ahead = was
			return err
		}
	}
	return nil
}

// from is the seq from which on a listing goes on.
func (v *survey) from() tidegate.Seq {
	if len(v.newest) == 0 {
		return 0
	}
	from := v.newest[0]
	for _, s := range v.ahead {
		from = min(from, s.First)
	}
	return from
}

// due says whether to look at the bucket, and whether at everything.
func (v *survey) due(p Policy, s *Standing, held bool, first tidegate.Seq, now tidegate.Instant) (look, full bool) {
	if !v.known || v.history.Epoch != s.Epoch || v.history.Start != s.Start {
		return true, true
	}
	_, gap := v.Next(first)
	if (v.against != nil || gap > 0) && time.Duration(now-v.fullAt) >= fullLooks*p.Look {
		return true, true
	}
	every := p.Look
	if held {
		every *= holderLooks
	}
	return time.Duration(now-v.at) >= every, false
}

// look brings the survey up to date, when it is due.
func (w *Writer) look(ctx context.Context, s *Standing) error {
	v, now, first := &w.survey, w.Clock.Boot(), w.Log.First()
	history := History{
		First: first, End: w.Log.End().Seq, Epoch: s.Epoch, Start: s.Start,
		At: func(seq tidegate.Seq) (tidegate.LogPos, error) {
			pos, _, err := w.Log.At(seq)
			return pos, err
		},
	}
	look, full := v.due(w.policy, s, w.claim.held(now), first, now)
	if !look {
		v.history = history
		return v.settle()
	}
	next := survey{history: history, at: now, fullAt: now}
	if !full {
		next = *v
		next.history, next.at, next.ahead = history, now, nil
		next.runs, next.newest = slices.Clone(v.runs), slices.Clone(v.newest)
	}
	after := LogPrefix(w.id)
	if from := v.from(); !full && from > 0 {
		after = LogAfter(w.id, from)
		next.newest = nil // they come again
	}
	for o, err := range w.Bucket.List(ctx, LogPrefix(w.id), after) {
		if err != nil {
			return w.inBucket("list segments", err)
		}
		seg, err := ParseSegment(w.id, o.Name)
		if err != nil {
			continue // not ours: it is left alone
		}
		if err := next.take(seg); err != nil {
			return err
		}
	}
	if full {
		if err := w.readGone(ctx); err != nil {
			return err
		}
	}
	if err := next.letGo(w.letGoNow()); err != nil {
		return err
	}
	w.succeeded()
	if next.against != nil && v.against == nil {
		w.Logger.Error("archive contradicts the log", "err", next.against)
	}
	next.known = true
	*v = next
	return nil
}

// readGone reads what the archive says that a rule has let go. Where that cannot be
// read the batches count as missing: whoever still has them uploads them once more.
func (w *Writer) readGone(ctx context.Context) error {
	removed, _, err := readRemoved(ctx, w.Bucket, w.id)
	if OfObject(err) {
		w.Logger.Warn("what was removed from the archive is not known", "err", err)
		return nil
	}
	if err != nil {
		return w.inBucket("read what was removed", err)
	}
	w.gone(removed.Log)
	return nil
}

// letGoNow is what gone was told last.
func (w *Writer) letGoNow() []Gone {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.letGo
}
