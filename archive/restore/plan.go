package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/stores"
)

// To is where to restore to. The zero value is the end of what is archived; at most
// one of the others is set.
type To struct {
	Time       time.Time
	Position   tidegate.Position
	Generation tidegate.Generation // of Position; 0: the newest
	Seq        tidegate.Seq
}

// String is as an operator says it.
func (t To) String() string {
	switch {
	case !t.Time.IsZero():
		return t.Time.UTC().Format(time.RFC3339Nano)
	case t.Position != 0:
		return t.Position.String()
	case t.Seq != 0:
		return fmt.Sprintf("seq:%d", uint64(t.Seq))
	}
	return "latest"
}

// Place finds the last batch that a target has anything of.
func (t To) Place(ctx context.Context, s *archive.Stream) (archive.Place, error) {
	switch {
	case !t.Time.IsZero():
		return s.AtTime(ctx, t.Time)
	case t.Position != 0:
		return s.AtPosition(ctx, t.Generation, t.Position)
	case t.Seq != 0:
		return s.AtSeq(ctx, t.Seq)
	}
	return s.Tip(ctx)
}

// Choice is what an operator may choose.
type Choice struct {
	To To
	// Base is the beginning of the name of a base's manifest, or [NoBase]; empty: the
	// newest that will do, and where none does the log from its beginning.
	Base string
	// NeedsBase says that the store cannot be rebuilt from the beginning of its log.
	NeedsBase bool
}

// NoBase is the choice of the log from its beginning, although there are bases.
const NoBase = "none"

// Plan is what a restore fetches.
type Plan struct {
	Stream *archive.Stream
	Base   *archive.Base // nil: none is needed
	Begin  archive.Place // the first batch
	End    archive.Place // the last one that has anything of the target
	To     To
	Target stores.Target

	BaseBytes  int64 // of the base's files
	LogBytes   int64 // of the segments, as they are stored
	RawBytes   int64 // of the log that they hold
	Bytes      int64 // room that the directory needs
	bytesTotal int64
}

func refuse(hint string, err error) error {
	return &tidegate.Error{Op: "plan restore", Class: tidegate.Permanent, Hint: hint, Err: err}
}

const windowHint = "`tidegate window` lists what can be restored"

// Choose chooses what a restore fetches. A target outside of what can be restored is
// tidegate.ErrNotFound; one behind a hole, tidegate.ErrGap.
func Choose(ctx context.Context, s *archive.Stream, bases *archive.Bases, c Choice) (*Plan, error) {
	p := &Plan{Stream: s, To: c.To}
	var err error
	if p.End, err = c.To.Place(ctx, s); err != nil {
		return nil, err
	}
	switch {
	case !c.To.Time.IsZero():
		p.Target.Time = c.To.Time.UnixNano()
	case c.To.Position != 0:
		p.Target.Position = c.To.Position
	}
	if err := p.begin(ctx, bases, c); err != nil {
		return nil, err
	}
	if err := p.measure(); err != nil {
		return nil, err
	}
	return p, nil
}

// begin chooses where to begin.
func (p *Plan) begin(ctx context.Context, bases *archive.Bases, c Choice) error {
	err := p.pick(ctx, bases, c)
	if err == nil || !IsUnfit(err) {
		return err
	}
	scar, in, failed := p.inScar(ctx, bases)
	if failed != nil {
		return failed
	}
	if in && c.Base == "" {
		return &tidegate.Error{
			Op: "plan restore", Class: tidegate.Refused, Hint: windowHint,
			Err: fmt.Errorf("%s lies in a scar, before any base behind it is consistent: %s: %w", p.To, scar, tidegate.ErrGap),
		}
	}
	return refuse(windowHint, err)
}

// inScar reports whether the target lies behind the end of one generation, and before any
// base of the next one is consistent: nothing leads there.
func (p *Plan) inScar(ctx context.Context, bases *archive.Bases) (scar archive.Scar, in bool, err error) {
	for i := range bases.All {
		if bases.All[i].Generation != p.End.Generation {
			continue
		}
		if _, err := p.fits(ctx, &bases.All[i]); !errors.Is(err, errLate) {
			return scar, false, nil // there is another reason
		}
		in = true
	}
	if !in {
		return scar, false, nil
	}
	return p.Stream.Before(ctx, p.End.Generation)
}

// errLate says of a base that it is no good yet at the target.
var errLate = fmt.Errorf("that is behind the target: %w", tidegate.ErrNotFound)

func (p *Plan) pick(ctx context.Context, bases *archive.Bases, c Choice) error {
	if c.NeedsBase || c.Base != "" && c.Base != NoBase {
		return p.choose(ctx, bases, c.Base)
	}
	if c.Base == NoBase || len(bases.All) == 0 {
		return p.fromBeginning(ctx)
	}
	unfit := p.choose(ctx, bases, "")
	if unfit == nil || !IsUnfit(unfit) {
		return unfit
	}
	err := p.fromBeginning(ctx)
	if err != nil && IsUnfit(err) {
		return fmt.Errorf("%w; and %w", unfit, err)
	}
	return err
}

// IsUnfit reports whether an error of [Choose] says what the archive does not have.
func IsUnfit(err error) bool {
	return errors.Is(err, tidegate.ErrNotFound) || errors.Is(err, tidegate.ErrGap) || errors.Is(err, tidegate.ErrDiverged)
}

// fromBeginning begins with the log's first batch.
func (p *Plan) fromBeginning(ctx context.Context) (err error) {
	p.Begin, err = p.Stream.AtSeq(ctx, 1)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return fmt.Errorf("the archived log does not begin at its beginning: %w", tidegate.ErrNotFound)
	case err == nil && p.Begin.Generation != p.End.Generation:
		return fmt.Errorf("the target is of generation %d, and the log begins with generation %d: %w", uint32(p.End.Generation), uint32(p.Begin.Generation), tidegate.ErrNotFound)
	}
	return err
}

// choose takes the newest base that is consistent before the target.
func (p *Plan) choose(ctx context.Context, bases *archive.Bases, name string) error {
	var why error
	for i := len(bases.All) - 1; i >= 0; i-- {
		b := &bases.All[i]
		if name != "" && !strings.HasPrefix(b.Name.String(), name) {
			continue
		}
		begin, err := p.fits(ctx, b)
		if err == nil {
			p.Base, p.Begin = b, begin
			return nil
		}
		if !IsUnfit(err) {
			return err
		}
		if why == nil {
			why = fmt.Errorf("base %.12s of generation %d: %w", b.Name, uint32(b.Generation), err)
		}
	}
	if why == nil {
		why = errors.Join(append([]error{fmt.Errorf("there is no such base in the archive: %w", tidegate.ErrNotFound)}, bases.Faults...)...)
	}
	return why
}

// fits reports why a base will not do for the target.
func (p *Plan) fits(ctx context.Context, b *archive.Base) (archive.Place, error) {
	if b.Generation != p.End.Generation {
		return archive.Place{}, fmt.Errorf("the target is of generation %d: %w", uint32(p.End.Generation), tidegate.ErrNotFound)
	}
	begin, whole, err := p.Stream.From(ctx, b.Info)
	if err != nil {
		return begin, err
	}
	late := fmt.Errorf("is consistent at position %s only, and %w", b.End, errLate)
	switch {
	case p.Target.Position != 0 && b.End > p.Target.Position, p.Target.Time != 0 && whole.Newest.UnixNano() > p.Target.Time:
		return begin, late
	case p.To.Seq != 0 && b.End > p.End.Next, whole.Seq > p.End.Seq:
		return begin, late
	}
	for _, h := range p.Stream.Branch.Holes {
		if begin.Seq <= h.Last && h.First <= p.End.Seq {
			return begin, fmt.Errorf("batches %d to %d behind it %s: %w", uint64(h.First), uint64(h.Last), p.Stream.Missing(h.First, h.Last), tidegate.ErrGap)
		}
	}
	return begin, nil
}

// slackBytes is what a store writes beside the files and the log: a segment that is not
// full, and configuration.
const slackBytes = 64 << 20

// measure adds up what is fetched and written.
func (p *Plan) measure() error {
	if p.Base != nil {
		p.BaseBytes = p.Base.Bytes
	}
	for _, h := range p.Stream.Branch.Holes {
		if p.Begin.Seq <= h.Last && h.First <= p.End.Seq {
			return refuse(windowHint, fmt.Errorf("batches %d to %d %s: %w", uint64(h.First), uint64(h.Last), p.Stream.Missing(h.First, h.Last), tidegate.ErrGap))
		}
	}
	p.LogBytes = 0
	for _, g := range p.Stream.Branch.Segments {
		if g.Last >= p.Begin.Seq && g.First <= p.End.Seq {
			p.LogBytes += p.Stream.Size(g)
		}
	}
	p.RawBytes = int64(p.End.Next - p.Begin.First)
	p.Bytes = p.BaseBytes + p.RawBytes + slackBytes
	p.bytesTotal = p.BaseBytes + p.RawBytes
	return nil
}

// From is where the log that is wanted begins: where the base does, else with the stream.
func (p *Plan) From() tidegate.Position {
	if p.Base != nil {
		return p.Base.Start
	}
	return 0
}

// restoration is the plan in the store's words.
func (p *Plan) restoration() stores.Restoration {
	info := p.Stream.Info
	r := stores.Restoration{Service: info.Service, Stream: info.Name, ID: info.Stream, From: p.From(), Target: p.Target}
	if p.Base != nil {
		r.Base = &p.Base.Info
	}
	return r
}
