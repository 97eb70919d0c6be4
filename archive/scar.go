package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/batch"
)

// Scar is where one generation of a log ends and the next begins: what the source came
// to in between is nowhere. It is written down while batches on both sides of it are in
// the archive, once, and stays when a rule has let them go.
type Scar struct {
	Version int   `json:"version"` // Version
	Ended   Place `json:"ended"`   // the last batch of the generation before
	Begun   Place `json:"begun"`   // the first of the one behind it
	// Accepted says who went on without what is missing, and why; nil: nobody knows it
	// any more.
	Accepted *tidegate.Gap `json:"accepted,omitempty"`

	written bool // it is a document of the archive
}

// scarTextMax bounds each text of a scar, in bytes.
const scarTextMax = 4 << 10

// Encode returns the document. Long texts are cut.
func (c Scar) Encode() []byte {
	c.Version = Version
	if c.Accepted != nil {
		gap := *c.Accepted
		gap.Reason, gap.Lost, gap.Actor = clip(gap.Reason), clip(gap.Lost), clip(gap.Actor)
		c.Accepted = &gap
	}
	return document(c)
}

// clip cuts a text where a character ends.
func clip(s string) string {
	if len(s) <= scarTextMax {
		return s
	}
	n := scarTextMax
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ParseScar reads the document that a name belongs to; errors as those of [ParseStream].
func ParseScar(id tidegate.StreamID, n ScarName, b []byte) (c Scar, err error) {
	name := n.Name(id)
	if err := json.Unmarshal(b, &c); err != nil {
		return Scar{}, corrupt(name, err)
	}
	if c.Version != Version {
		return Scar{}, fmt.Errorf("%s: version %d: %w", name, c.Version, tidegate.ErrUnsupported)
	}
	switch e, g := c.Ended, c.Begun; {
	case c.name() != n:
		return Scar{}, corrupt(name, fmt.Errorf("is of batch %d of epoch %s", uint64(g.Seq), g.Epoch))
	case e.Seq == 0 || e.Seq >= g.Seq || e.Epoch >= g.Epoch || e.Generation >= g.Generation:
		return Scar{}, corrupt(name, fmt.Errorf("%s, and %s behind it", e, g))
	}
	c.written = true
	return c, nil
}

func (c Scar) name() ScarName { return ScarName{c.Begun.Seq, c.Begun.Epoch} }

// exact reports whether nothing is missing in the archive between its two batches.
func (c Scar) exact() bool { return c.Begun.Seq == c.Ended.Seq+1 }

// Lost is the range of the source's positions that is nowhere. It is not known where
// the source begins anew before where it had ended: it was set back.
func (c Scar) Lost() (from, to tidegate.Position, known bool) {
	return c.Ended.Next, c.Begun.First, c.Begun.First >= c.Ended.Next
}

// Of reports whether a gap is what led to it.
func (c Scar) Of(g tidegate.Gap) bool { return c.Ended.Epoch <= g.Epoch && g.Epoch < c.Begun.Epoch }

// String is for people.
func (c Scar) String() string {
	text := fmt.Sprintf("generation %d ends at %s (batch %d, %s), generation %d begins at %s (batch %d, %s)",
		uint32(c.Ended.Generation), c.Ended.Next, uint64(c.Ended.Seq), c.Ended.Newest.Format(time.RFC3339Nano),
		uint32(c.Begun.Generation), c.Begun.First, uint64(c.Begun.Seq), c.Begun.Oldest.Format(time.RFC3339Nano))
	switch _, _, known := c.Lost(); {
	case !known:
		text += ", how much is lost in between is unknown: the source was set back"
	default:
		text += ", what lies in between is lost"
	}
	if g := c.Accepted; g != nil {
		return text + fmt.Sprintf("; accepted by %s at %s: %s", g.Actor, g.Since.UTC().Format(time.RFC3339), g.Reason)
	}
	return text + "; by whom that was accepted is unknown"
}

// lost refuses what lies in a scar.
func (s *Stream) lost(what string, c Scar) error {
	return &tidegate.Error{
		Op: "read archive of", Subject: fmt.Sprintf("%s/%s", s.Info.Service, s.Info.Name), Class: tidegate.Refused,
		Err:  fmt.Errorf("%s lies in a scar: %s: %w", what, c, tidegate.ErrGap),
		Hint: "`tidegate window` lists what can be restored on both sides of it",
	}
}

// stretch is a part of the branch that has no hole and is of one generation; both ends
// are inclusive.
type stretch struct {
	first, last tidegate.Seq
	generation  tidegate.Generation
}

// stretches cuts a run of the branch, oldest first.
func (s *Stream) stretches(ctx context.Context, run [2]int) (out []stretch, err error) {
	begin, err := s.head(ctx, s.Branch.Segments[run[0]])
	if err != nil {
		return nil, err
	}
	end, err := s.AtSeq(ctx, s.Branch.until(run[1]-1))
	if err != nil {
		return nil, err
	}
	first, g := begin.Seq, begin.Generation
	for g < end.Generation {
		at, err := s.lastThat(ctx, func(h *batch.Header) bool { return h.Generation <= g })
		if err != nil {
			return nil, err
		}
		next, err := s.AtSeq(ctx, at.Seq+1)
		if err != nil {
			return nil, err
		}
		out = append(out, stretch{first, at.Seq, g})
		first, g = next.Seq, next.Generation
	}
	return append(out, stretch{first, end.Seq, g}), nil
}

// allStretches are those of all runs.
func (s *Stream) allStretches(ctx context.Context) (out []stretch, err error) {
	for _, run := range s.Branch.Runs() {
		parts, err := s.stretches(ctx, run)
		if err != nil {
			return nil, err
		}
		out = append(out, parts...)
	}
	return out, nil
}

// beginning is a batch with which a segment may begin: that takes a small request.
func (s *Stream) beginning(ctx context.Context, seq tidegate.Seq) (Place, error) {
	if i, ok := s.Branch.At(seq); ok && s.Branch.Segments[i].First == seq {
		h, err := s.head(ctx, s.Branch.Segments[i])
		return PlaceOf(&h), err
	}
	return s.AtSeq(ctx, seq)
}

// Scars are those of the newest branch, oldest first: those that show in what is there,
// and those that were written down. faults are documents that cannot be read.
func (s *Stream) Scars(ctx context.Context) (scars []Scar, faults []error, err error) {
	parts, err := s.allStretches(ctx)
	if err != nil {
		return nil, nil, err
	}
	written, faults, err := s.writtenScars(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range written {
		of, err := s.ofBranch(ctx, w)
		if err != nil {
			return nil, nil, err
		}
		if of {
			scars = append(scars, w)
		}
	}
	for i := 1; i < len(parts); i++ {
		ended, begun := parts[i-1], parts[i]
		// What was written down says it better where something has gone in between.
		known := slices.ContainsFunc(scars, func(w Scar) bool { return ended.last <= w.Ended.Seq && w.Begun.Seq <= begun.first })
		if ended.generation == begun.generation || known {
			continue
		}
		c, err := s.between(ctx, ended.last, begun.first)
		if err != nil {
			return nil, nil, err
		}
		scars = append(scars, c)
	}
	slices.SortFunc(scars, func(a, b Scar) int { return cmp.Compare(a.Begun.Seq, b.Begun.Seq) })
	return scars, faults, nil
}

// between is the scar between two batches that are there.
func (s *Stream) between(ctx context.Context, last, first tidegate.Seq) (c Scar, err error) {
	if c.Ended, err = s.AtSeq(ctx, last); err != nil {
		return c, err
	}
	c.Begun, err = s.beginning(ctx, first)
	return c, err
}

// ofBranch reports whether nothing that is there contradicts a scar: it may be of a
// branch that a failover left.
func (s *Stream) ofBranch(ctx context.Context, c Scar) (bool, error) {
	for _, p := range []Place{c.Ended, c.Begun} {
		at, err := s.AtSeq(ctx, p.Seq)
		if err == nil && at.Chain != p.Chain {
			return false, nil
		}
		if ignoreAbsent(err) != nil {
			return false, err
		}
	}
	return true, nil
}

// writtenScars reads the documents, oldest first.
func (s *Stream) writtenScars(ctx context.Context) (list []Scar, faults []error, err error) {
	s.scars.mu.Lock()
	defer s.scars.mu.Unlock()
	if s.scars.read {
		return s.scars.list, s.scars.faults, nil
	}
	for _, n := range s.scars.names {
		text, _, err := bucket.ReadAll(ctx, s.b, n.Name(s.Info.Stream), DocumentBytesMax)
		var c Scar
		if err == nil {
			c, err = ParseScar(s.Info.Stream, n, text)
		} else {
			err = fmt.Errorf("%s: %w", n.Name(s.Info.Stream), err)
		}
		switch {
		case err == nil:
			list = append(list, c)
		case OfObject(err):
			faults = append(faults, err)
		default:
			return nil, nil, err
		}
	}
	s.scars.list, s.scars.faults, s.scars.read = list, faults, true
	return list, faults, nil
}

// into is an error when a moment lies behind everything that the branch has up to the
// next hole, or scar, behind a batch.
func (s *Stream) into(ctx context.Context, seq tidegate.Seq, t time.Time) error {
	runs := s.Branch.Runs()
	r := slices.IndexFunc(runs, func(run [2]int) bool { return seq <= s.Branch.until(run[1]-1) })
	if r < 0 {
		return nil
	}
	parts, err := s.stretches(ctx, runs[r])
	if err != nil {
		return err
	}
	i := slices.IndexFunc(parts, func(p stretch) bool { return seq <= p.last })
	scar, last := i < len(parts)-1, parts[i].last
	if !scar && r == len(runs)-1 {
		return nil // it is the branch's end
	}
	newest, found, err := s.newestRecord(ctx, parts[i].first, last)
	if err != nil || found && !t.After(newest) {
		return err
	}
	what := "time " + t.UTC().Format(time.RFC3339Nano)
	if !scar {
		return fmt.Errorf("%s: %w", what, s.hole(last+1, s.Branch.Segments[runs[r+1][0]].First-1))
	}
	c, err := s.between(ctx, last, last+1)
	if err != nil {
		return err
	}
	written, _, err := s.writtenScars(ctx)
	if err != nil {
		return err
	}
	if w := slices.IndexFunc(written, func(w Scar) bool { return w.Begun.Chain == c.Begun.Chain }); w >= 0 {
		c = written[w]
	}
	return s.lost(what, c)
}

// inScar refuses a position of a generation that lies behind that one's end, or before the
// beginning of it and behind the end of the one before; nil where it does not.
func (s *Stream) inScar(ctx context.Context, g tidegate.Generation, p tidegate.Position) error {
	scars, _, err := s.Scars(ctx)
	if err != nil {
		return err
	}
	for _, c := range scars {
		from, to, known := c.Lost()
		if p > from && (g == c.Ended.Generation || g == c.Begun.Generation && known && p < to) {
			return s.lost("position "+p.String(), c)
		}
	}
	return nil
}

// Before returns the scar that a generation begins behind.
func (s *Stream) Before(ctx context.Context, g tidegate.Generation) (c Scar, found bool, err error) {
	scars, _, err := s.Scars(ctx)
	if err != nil {
		return c, false, err
	}
	i := slices.IndexFunc(scars, func(c Scar) bool { return c.Begun.Generation == g })
	if i < 0 {
		return c, false, nil
	}
	return scars[i], true, nil
}

// scarring is how far the writer is with scars, from one look to the next.
type scarring struct {
	since tidegate.Instant // the tenure that it is of
	next  tidegate.Seq     // the archive ended before it when it was looked at
	done  []tidegate.Epoch // of gaps that are written down, or came to nothing
}

// scarStep writes down what the gaps on record have led to, once the archive has it.
func (w *Writer) scarStep(ctx context.Context) error {
	since, holds := w.tenure()
	if since != w.scarring.since {
		w.scarring = scarring{since: since}
	}
	due := slices.DeleteFunc(slices.Clone(w.Source.Standing().Gaps), func(g tidegate.Gap) bool { return slices.Contains(w.scarring.done, g.Epoch) })
	st := w.Status()
	if !holds || len(due) == 0 || !st.Known || st.Next <= w.scarring.next {
		return nil
	}
	tip, err := w.scarDue(ctx, since)
	if OfObject(err) { // what can be read is mirrored and let go all the same
		w.Logger.Warn("scars not looked for in archive", "err", err)
		tip, err = 0, nil
	}
	if err != nil {
		return err
	}
	for _, g := range due {
		if tip > g.Epoch {
			w.scarring.done = append(w.scarring.done, g.Epoch)
		}
	}
	w.scarring.next = st.Next
	return nil
}

// scarDue writes down what there is, and returns the epoch that the archive has come to.
func (w *Writer) scarDue(ctx context.Context, since tidegate.Instant) (tip tidegate.Epoch, err error) {
	info := w.Source.Standing().Info
	info.Stream = w.id
	s, err := (&Reader{b: w.Bucket}).Open(ctx, info)
	if err != nil || len(s.Branch.Segments) == 0 {
		return 0, err
	}
	return s.Branch.Tip().Epoch, w.scar(ctx, s, since, false)
}

// scar writes down the scars of a stream: before anything goes all of them, else those
// of which it is known who accepted them. Repeating it changes nothing.
func (w *Writer) scar(ctx context.Context, s *Stream, since tidegate.Instant, all bool) error {
	scars, _, err := s.Scars(ctx)
	if err != nil {
		return err
	}
	gaps := w.Source.Standing().Gaps
	for _, c := range scars {
		if c.written {
			continue
		}
		for _, g := range gaps { // the newest last
			if c.Of(g) {
				c.Accepted = &g
			}
		}
		if !all && (c.Accepted == nil || !c.exact()) {
			continue
		}
		if err := w.still(since); err != nil {
			return err
		}
		if err := w.putOnce(ctx, c.name().Name(w.id), c.Encode()); err != nil {
			return w.inBucket("write scar", err)
		}
		w.Logger.Info("scar archived", "scar", c.String())
	}
	return nil
}
