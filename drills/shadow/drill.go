package shadow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/archive/bucket/place"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	lookEvery = time.Second            // at the live node's lag
	looks     = 3                      // before and after
	lookPause = 200 * time.Millisecond // between those
)

// Options are what is chosen for one drill.
type Options struct {
	Backlog *Backlog      // what is left for t0; nil: what the live node has not applied
	Limit   time.Duration // of the whole drill; above 0
	Version string        // of this binary
	Host    string
	Config  *evidence.Hash // of the configuration's file
	// Open opens the archive that the evidence goes to; never called where it goes to a
	// directory.
	Open func(context.Context, place.Config) (bucket.Bucket, error)
}

// Drill is one L1 drill of one service.
type Drill struct {
	fs   vfs.FS
	clk  clock.Clock
	src  Source
	cfg  Config
	opts Options

	pause  time.Duration // between the looks before and after
	every  time.Duration // between the looks during it
	step   atomic.Int32
	twin   atomic.Pointer[twin]
	timed  atomic.Bool
	begins func(Step) // before each step; for tests
}

// New returns a drill; it does no I/O.
func New(fsys vfs.FS, clk clock.Clock, src Source, cfg Config, opts Options) *Drill {
	return &Drill{fs: fsys, clk: clk, src: src, cfg: cfg, opts: opts, pause: lookPause, every: lookEvery, begins: func(Step) {}}
}

// Progress says how far the drill is. It may be called at any time.
func (d *Drill) Progress() string {
	line := Step(d.step.Load()).String()
	if t := d.twin.Load(); t != nil {
		line += (*t).progress()
	}
	return line
}

// Run rehearses, cleans up, and says what came of it; all but the verdict is in the
// report. It returns when nothing of the sandbox is left, or what is left is named. May
// be called once.
func (d *Drill) Run(ctx context.Context) Result {
	r := &run{d: d, lag: newLag(&d.cfg, evidence.Gate{}), began: d.clk.Wall()}
	refused := r.enter(ctx)
	if refused == nil {
		r.rehearse(ctx)
	} else if ctx.Err() != nil {
		r.course = r.course.Next(Event{Called: whyOff(ctx)}, d.clk.Boot())
	} else {
		r.refused = append(r.refused, evidence.Sentence(refused))
	}
	r.leave()
	return r.result()
}

const calledOff = "it was called off by its operator"

// whyOff says why a drill is called off whose context has ended: by its cause, where whoever
// ended it gave one.
func whyOff(ctx context.Context) string {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(cause, context.Canceled) {
		return calledOff
	}
	return "it was called off: " + evidence.Sentence(cause)
}

// run is one drill while it runs. It belongs to one goroutine but where it says so.
type run struct {
	d       *Drill
	began   time.Time
	scratch *scratch
	space   space
	box     *sandbox
	twin    twin      // nil: there is none yet
	cut     time.Time // when the clone's end was chosen; zero: it was not
	asker   *probe.Asker
	look    Look
	left    Backlog
	stop    func() // ends what runs beside it; nil: nothing does
	beside  *errgroup.Group
	unwatch func() // ends the watch; nil: nobody does

	course    Course
	lag       lag // of the watch, while that runs
	refused   []string
	isolation []evidence.Check
	leftOvers []evidence.LeftOver
	lost      []string // what could not be cleaned
	checks    []evidence.Check
	typing    typing
}

// enter makes sure that the drill can harm nothing. Its error refuses the drill.
func (r *run) enter(ctx context.Context) (err error) {
	d := r.d
	r.isolation = append(r.isolation, whoami(d.src.Identity()))
	r.isolation = slices.Concat(r.isolation, apart(d.cfg.Scratch, d.cfg.Live), d.own(ctx))
	if err := breached(r.isolation); err != nil {
		return err
	}
	if r.scratch, err = openScratch(d.fs, d.clk, d.cfg.Scratch); err != nil {
		return err
	}
	if r.leftOvers, err = r.scratch.leftOvers(); err != nil {
		return err
	}
	r.space = spaceOf(d.fs, d.cfg.Scratch, d.cfg.Live)
	if err := r.space.need(0); err != nil {
		return err
	}
	if r.look, err = d.src.Look(ctx); err != nil {
		return err
	}
	r.lag.harm = d.cfg.Harm.under(d.src.Protection())
	r.isolation = append(r.isolation, d.src.Provoke(ctx)...)
	if err := breached(r.isolation); err != nil {
		return err
	}
	if err := r.lookAround(ctx, lagBefore); err != nil {
		return err
	}
	if why := r.lag.ready(r.look.worst()); why != "" {
		return &tidegate.Error{Op: "rehearse", Subject: string(d.cfg.Service), Class: tidegate.Refused, Err: errors.New(why), Hint: "a drill waits until the service is protected: `tidegate status`"}
	}
	if r.left, err = d.left(r.look); err != nil {
		return err
	}
	r.box, err = r.scratch.make(&d.cfg, r.began)
	return err
}

// lookAround looks at the live node a few times.
func (r *run) lookAround(ctx context.Context, when lagWhen) error {
	for i := range looks {
		if i > 0 {
			select {
			case <-time.After(r.d.pause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		look, err := r.d.src.Look(ctx)
		if err != nil {
			return err
		}
		r.look = look
		r.lag.take(when, look, r.d.clk.Boot())
	}
	return nil
}

// offError calls a drill off in which nothing was found wrong with the clone: it harms the
// live protection, or it cannot go on now.
type offError struct{ error }

func (e offError) Unwrap() error { return e.error }

// watch looks at the live node until ctx ends, and calls the drill off when it is harmed.
func (r *run) watch(ctx context.Context, call func(error)) {
	tick := time.NewTicker(r.d.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		look, err := r.d.src.Look(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			look = nil // nobody says how far it is behind
		}
		if why := r.lag.take(lagDuring, look, r.d.clk.Boot()); why != "" {
			call(offError{errors.New(why)})
		}
		if err := r.space.harmed(); err != nil {
			call(offError{err})
		}
	}
}

// rehearse carries the course out.
func (r *run) rehearse(outer context.Context) {
	d := r.d
	limited, over := context.WithTimeoutCause(outer, d.opts.Limit, probe.Fault{Err: fmt.Errorf("it has not come to its end within %s", d.opts.Limit)})
	defer over()
	ctx, call := context.WithCancelCause(limited)
	r.beside = &errgroup.Group{}
	r.stop = func() { call(context.Canceled) }
	looking, enough := context.WithCancel(context.WithoutCancel(ctx))
	var watcher sync.WaitGroup
	watcher.Go(func() { r.watch(looking, call) })
	r.unwatch = func() {
		enough()
		watcher.Wait()
	}
	for r.course.Step() != Over {
		step := r.course.Step()
		d.step.Store(int32(step)) //nolint:gosec // a few
		d.begins(step)
		err := r.do(ctx, step)
		now := d.clk.Boot()
		var e Event
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			if off, is := errors.AsType[offError](err); is || outer.Err() != nil {
				e.Called = whyOff(outer)
				if is {
					e.Called = evidence.Sentence(off)
				}
			} else if !r.started() && (isFull(err) || tidegate.ClassOf(err) == tidegate.Refused) {
				r.refused = append(r.refused, evidence.Sentence(err))
				e.Called = evidence.Sentence(err)
			} else {
				e.Failed = evidence.Sentence(err)
			}
		}
		r.course = r.course.Next(e, now)
	}
	d.step.Store(int32(Over))
}

// do carries one step out.
func (r *run) do(ctx context.Context, step Step) error {
	if r.started() {
		var done context.CancelFunc
		ctx, done = r.twin.alive(ctx)
		defer done()
	}
	err := r.carry(ctx, step)
	if err != nil && r.started() {
		hungUp := tidegate.ClassOf(err) == tidegate.Transient || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if gone := r.twin.gone(hungUp); gone != nil {
			return gone // what follows from it is not the cause
		}
	}
	return err
}

func (r *run) started() bool { return r.twin != nil && r.twin.started() }

func (r *run) carry(ctx context.Context, step Step) (err error) {
	d := r.d
	switch step {
	case Prepare:
		if err = r.prepare(ctx); err == nil {
			r.outputsBefore(ctx)
		}
		return err
	case CatchUp:
		d.timed.Store(true)
		return r.twin.catchUp(ctx)
	case Apply:
		return r.twin.apply(ctx)
	case Promote:
		return r.within(ctx, r.twin.promote)
	case Verify:
		for i := range d.cfg.Canaries {
			err := r.within(ctx, func(ctx context.Context) error {
				c, err := r.asker.Canary(ctx, &d.cfg.Canaries[i])
				r.checks = append(r.checks, c)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	case Checks:
		for i := range d.cfg.Canaries {
			c := &d.cfg.Canaries[i]
			r.checks = append(r.checks, r.asker.Check(ctx, c.Name+" read back", "canary", &c.Read))
		}
		for i := range d.cfg.Checks {
			c := &d.cfg.Checks[i]
			r.checks = append(r.checks, r.asker.Check(ctx, c.Name, c.Kind(), &c.Ask))
		}
		r.outputsAfter(ctx)
		for i := range d.cfg.Records {
			r.checks = append(r.checks, r.asker.Record(ctx, &d.cfg.Records[i], r.cut))
		}
		for i := range d.cfg.Journeys {
			r.checks = append(r.checks, r.asker.Journey(ctx, &d.cfg.Journeys[i]))
		}
		r.checks = append(r.checks, r.twin.examine(ctx, r.asker)...)
		return ctx.Err()
	}
	return nil
}

// within is do with the configured time to wait for the service.
func (r *run) within(ctx context.Context, do func(context.Context) error) error {
	late := probe.Fault{Err: fmt.Errorf("the service has not done it within %s", r.d.cfg.Wait)}
	ctx, cancel := context.WithTimeoutCause(ctx, r.d.cfg.Wait, late)
	defer cancel()
	err := do(ctx)
	if err != nil && errors.Is(context.Cause(ctx), late) {
		return fmt.Errorf("%w: %w", late, err)
	}
	return err
}

// prepare makes the twin, up to its backlog.
func (r *run) prepare(ctx context.Context) error {
	d := r.d
	limiter := rates.NewLimiter(int64(d.cfg.Rate))
	reader, err := d.src.Open(ctx, r.box.stage(), func(ctx context.Context, n int) error {
		if d.cfg.Rate == 0 || d.timed.Load() {
			return nil
		}
		return limiter.Wait(ctx, n)
	})
	if err != nil {
		return err
	}
	r.twin, err = newTwin(ctx, ground{d: d, box: r.box, space: r.space, reader: reader, look: r.look, left: r.left, began: r.began, beside: r.beside, chosen: func() { r.cut = d.clk.Wall() }})
	if err != nil {
		return err
	}
	d.twin.Store(&r.twin)
	r.asker = probe.New(d.clk, r.box, d.cfg.Program.Environment)
	err = r.twin.begin(ctx)
	r.isolation = append(r.isolation, r.twin.isolation()...)
	return err
}

// leave tears everything down, whatever has happened. The live node is watched until the
// clone's files have gone, which is work for its disk, too.
func (r *run) leave() {
	ctx := context.Background() // the drill's own has ended, and this must come to its end
	if r.twin != nil {
		if err := r.twin.stop(); err != nil {
			r.lost = append(r.lost, evidence.Sentence(err))
		}
	}
	if r.stop != nil {
		r.stop()
		if err := r.beside.Wait(); err != nil {
			r.lost = append(r.lost, evidence.Sentence(err))
		}
	}
	if r.asker != nil {
		r.asker.Close()
	}
	if r.twin != nil {
		r.twin.close()
	}
	if r.box != nil {
		found, err := r.box.tearDown()
		r.leftOvers = append(r.leftOvers, found...)
		if err != nil {
			r.lost = append(r.lost, evidence.Sentence(err))
		}
	}
	if r.unwatch != nil {
		r.unwatch()
		r.lookOnce(ctx)
	}
	if r.box != nil {
		if err := r.lookAround(ctx, lagAfter); err != nil {
			r.lag.take(lagAfter, nil, r.d.clk.Boot())
		}
	}
	if r.scratch != nil {
		if err := r.scratch.close(); err != nil {
			r.lost = append(r.lost, evidence.Sentence(err))
		}
	}
}

// lookOnce looks at the live node when the drill was over before the watch did.
func (r *run) lookOnce(ctx context.Context) {
	if len(r.lag.seen[lagDuring]) > 0 {
		return
	}
	look, err := r.d.src.Look(ctx)
	if err != nil {
		look = nil
	}
	r.lag.take(lagDuring, look, r.d.clk.Boot())
}
