package shadow

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/stores/journal/replay"
)

// fed is the twin of an event-sourced service: its own program in the sandbox, which is fed
// base and log as a standby node feeds it.
type fed struct {
	ground

	clone    *clone
	prog     *program
	feeds    atomic.Pointer[replay.Replay]
	copied   atomic.Int64
	epoch    tidegate.Epoch
	outcomes []replay.Outcome   // of the latest plans
	checked  [][]replay.Checked // of all plans, one list a stream
}

// begin implements [twin].
func (f *fed) begin(ctx context.Context) (err error) {
	if f.clone, err = openClone(ctx, &f.ground, f.left); err != nil {
		return err
	}
	if err := f.clone.room(f.space); err != nil {
		return err
	}
	plans, err := f.clone.head(ctx, func(n int) { f.copied.Add(int64(n)) })
	if err != nil {
		return err
	}
	return f.start(ctx, plans)
}

// start starts the service and feeds it the clone's head.
func (f *fed) start(ctx context.Context, plans []*replay.Plan) error {
	d := f.d
	feeds, err := replay.New(d.clk, replay.Config{RunDir: f.box.run(), Wait: d.cfg.Wait, Stay: true}, plans)
	if err != nil {
		return err
	}
	f.epoch = epochOf(f.began)
	desk := &clearance{run: f.box.run(), service: d.cfg.Service, streams: f.clone.streams(), epoch: f.epoch}
	lns, err := desk.listen()
	if err != nil {
		return err
	}
	f.beside.Go(func() error { return desk.serve(ctx, lns) })
	if f.prog, err = f.box.start(&d.cfg.Program, d.cfg.addresses()); err != nil {
		return err
	}
	f.feeds.Store(feeds)
	f.beside.Go(func() error {
		_, _ = feeds.Run(ctx) // Fed and Promote say what came of it
		return nil
	})
	alive, done := f.prog.within(ctx)
	defer done()
	return f.awaitFed(alive)
}

// epochOf is the epoch that a clone is promoted under.
func epochOf(began time.Time) tidegate.Epoch {
	return tidegate.EpochDrillFirst + tidegate.Epoch(began.Unix()) //nolint:gosec // after 1970
}

// awaitFed waits until the service has what it was given.
func (f *fed) awaitFed(ctx context.Context) error {
	out, err := f.feeds.Load().Fed(ctx)
	if err != nil {
		return err
	}
	if f.outcomes = out; f.checked == nil {
		f.checked = make([][]replay.Checked, len(out))
	}
	for i := range out {
		f.checked[i] = append(f.checked[i], out[i].Checked...)
	}
	for i, o := range out {
		if o.Verdict == replay.Differs {
			return &tidegate.Error{
				Op: "compare state of", Subject: string(f.clone.parts[i].src.Info.Name), Class: tidegate.Corrupt, Err: errors.New(o.Why),
			}
		}
	}
	return nil
}

// catchUp implements [twin].
func (f *fed) catchUp(ctx context.Context) error {
	_, err := f.clone.tail(ctx)
	return err
}

// apply implements [twin].
func (f *fed) apply(ctx context.Context) error {
	f.feeds.Load().Next(f.clone.plansNow())
	return f.awaitFed(ctx)
}

// promote implements [twin].
func (f *fed) promote(ctx context.Context) error { return f.feeds.Load().Promote(ctx, f.epoch) }

// examine implements [twin]: a journal's service is asked by the operator's checks.
func (f *fed) examine(context.Context, *probe.Asker) []evidence.Check { return nil }

// started implements [twin].
func (f *fed) started() bool { return f.prog != nil }

// alive implements [twin].
func (f *fed) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	return f.prog.within(ctx)
}

// gone implements [twin].
func (f *fed) gone(hungUp bool) error {
	if f.prog.hasEnded(hungUp) {
		return f.prog.gone()
	}
	return nil
}

// isolation implements [twin]: of a program of the operator's nothing is known.
func (f *fed) isolation() []evidence.Check { return nil }

// backlog implements [twin].
func (f *fed) backlog() (records, size *int64) {
	if f.clone == nil || len(f.clone.parts) < len(f.infos) {
		return nil, nil
	}
	return f.clone.backlog()
}

// progress implements [twin].
func (f *fed) progress() string {
	line := ""
	if n := f.copied.Load(); n > 0 {
		line = fmt.Sprintf(", %d MiB of log read", n>>20)
	}
	if r := f.feeds.Load(); r != nil {
		p := r.Progress()
		line = fmt.Sprintf(", %d records applied, %d of %d MiB", p.Records, min(p.Bytes, p.Total)>>20, p.Total>>20)
		if p.Waits {
			line += ", waiting for the service"
		}
	}
	return line
}

// stop implements [twin].
func (f *fed) stop() error {
	if f.prog != nil {
		f.prog.stop()
	}
	return nil
}

// close implements [twin].
func (f *fed) close() {
	if f.clone != nil {
		f.clone.close()
	}
}

// streams implements [twin].
func (f *fed) streams() (all []evidence.Stream) {
	if f.clone == nil {
		return nil
	}
	for i, p := range f.clone.parts {
		all = append(all, f.stream(i, p))
	}
	return all
}

// content implements [twin]: by the digest of the state.
func (f *fed) content(applied bool) (all []evidence.Check) {
	if f.clone == nil {
		return nil
	}
	for i, p := range f.clone.parts {
		all = append(all, f.digest(i, p, applied))
	}
	return all
}

func (f *fed) stream(i int, p *part) evidence.Stream {
	info := p.src.Info
	s := evidence.Stream{ID: info.Stream, Name: info.Name, Store: info.Store}
	if p.plan == nil {
		return s
	}
	s.Generation, s.CutSeq, s.Lineage = &p.end.Generation, &p.end.Seq, &p.plan.Origin
	if i < len(f.outcomes) {
		o := &f.outcomes[i]
		s.Cut = &o.Position
		if o.Verdict != replay.Unknown && len(o.Checked) > 0 { // on record at the cut, or where it came to its end
			s.Expected = &o.Checked[len(o.Checked)-1].Digest
		}
		if !o.Digest.IsZero() {
			s.Observed = &o.Digest
		}
	}
	return s
}

// digest is whether a stream's state is what the live standby's service says of the same
// place: at the cut, or on the way to it where that service is behind or has gone on.
func (f *fed) digest(i int, p *part, applied bool) evidence.Check {
	c := evidence.Check{
		Name: "digest " + string(p.src.Info.Name), Kind: "digest", Wanted: "the digest that the live standby's service says of the same place", Outcome: evidence.CheckUnknown,
	}
	if !p.digest.IsZero() {
		c.Wanted = fmt.Sprintf("%s at %s; %d records lie in the batches behind it", p.digest, p.at, p.behind)
	}
	var o replay.Outcome
	if i < len(f.outcomes) {
		o = f.outcomes[i]
		c.Got = f.said(i, p)
	}
	switch {
	case o.Verdict == replay.Differs:
		c.Outcome, c.Why = evidence.CheckFailed, "the clone's state is another one: "+o.Why
	case !applied:
		c.Why = "the clone has not come to the cut"
	case p.digest.IsZero():
		c.Why = "the live standby's service says no digest"
	case c.Got == nil && o.Digest.IsZero():
		c.Why = "the clone's service says no digest"
	case c.Got == nil:
		c.Why = "the clone's service said no digest at that place"
	default:
		c.Outcome = evidence.CheckPassed // else the replay had ended there
	}
	return c
}

// said is the digest that the clone's service said at the place where the live one's is
// known; nil: it did not.
func (f *fed) said(i int, p *part) *string {
	for _, k := range f.checked[i] {
		if k.Position == p.at && k.Digest == p.digest {
			return new(k.Got.String())
		}
	}
	return nil
}
