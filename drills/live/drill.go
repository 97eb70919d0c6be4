package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
)

// pace is how often a drill does what it does again and again.
type pace struct {
	look   time.Duration // at the gates
	ask    time.Duration // for a change of role that rules refuse
	lookup time.Duration // for canaries that are not there
	heal   time.Duration // what could not be healed
}

var usualPace = pace{look: lookEvery, ask: 500 * time.Millisecond, lookup: 500 * time.Millisecond, heal: time.Second}

const (
	lookEvery  = 200 * time.Millisecond
	looksFirst = 3 // before anything, and after everything
)

// Options are what is chosen for one drill.
type Options struct {
	Level    evidence.Level
	Scenario Scenario
	Limit    time.Duration // of the whole drill; above 0
	Version  string        // of this binary
	Host     string
	Config   *evidence.Hash // of the configuration's file
}

// Drill is one live drill of one service, at level L4 of one site.
type Drill struct {
	fs   vfs.FS
	clk  clock.Clock
	ctl  Control
	cfg  Config
	opts Options
	pace pace

	step     atomic.Int32
	accepted atomic.Int64
}

// New returns a drill; it does no I/O.
func New(fsys vfs.FS, clk clock.Clock, ctl Control, cfg Config, opts Options) *Drill {
	return &Drill{fs: fsys, clk: clk, ctl: ctl, cfg: cfg, opts: opts, pace: usualPace}
}

// Services are those that the drill concerns, its own first.
func (d *Drill) Services() []tidegate.ServiceName {
	if d.opts.Level == evidence.L4 {
		return d.cfg.services()
	}
	return []tidegate.ServiceName{d.cfg.Service}
}

// Progress says how far the drill is. It may be called at any time.
func (d *Drill) Progress() string {
	return fmt.Sprintf("%s, %d canaries accepted", Step(d.step.Load()), d.accepted.Load())
}

// Run drills, heals, and says what came of it; all but the verdict is in the report. It
// returns when the fault is healed and no change of role of its own runs any more, or what
// is left is named. May be called once.
func (d *Drill) Run(ctx context.Context) Result {
	r := newRun(d)
	if refused := r.enter(ctx); refused == nil {
		r.play(ctx)
	} else if ctx.Err() != nil {
		r.course = r.course.Next(Event{Called: calledOff}, d.clk.Boot())
	} else {
		r.refused = append(r.refused, evidence.Sentence(refused))
	}
	if r.planned && r.first != nil { // who moves it back is said
		if err := r.state.healed(); err != nil {
			r.lost = append(r.lost, evidence.Sentence(err))
		}
	}
	if r.state != nil {
		if err := r.state.close(); err != nil {
			r.lost = append(r.lost, evidence.Sentence(err))
		}
	}
	return r.result()
}

const calledOff = "it was called off by its operator"

// run is one drill while it runs.
type run struct {
	d         *Drill
	id        uuid.UUID
	began     time.Time
	expect    Expectation
	planned   bool
	services  []tidegate.ServiceName // the drill's own first
	addresses map[string]bool
	state     *state
	open      []Command // what heals the open fault; nil: there is none
	course    Course
	refused   []string
	lost      []string // what went wrong at the end
	leftOvers []evidence.LeftOver
	checks    []evidence.Check
	home      string                             // node that wrote before
	there     map[tidegate.ServiceName]*movement // of the way there, or of the failover
	back      *movement
	quiet     func() // ends the writing of canaries; may be called again

	mu      sync.Mutex // below; news is closed and replaced when any of it changes
	news    chan struct{}
	tally   Tally
	witness map[tidegate.ServiceName]*Witness
	sight   Sight // the newest
	part    part
	first   *tidegate.Instant // the first command of the fault began, or the change was asked for
	fault   *tidegate.Instant // the last one did
	notice  *tidegate.Instant // t1
	serve   *tidegate.Instant // t8
	whole   *tidegate.Instant // t9
	asserts assertions
	broken  string // the blocking assertion that is
	harmed  string
	written bool // no canaries are written any more
}

// movement is a change of role by this drill.
type movement struct {
	asked     tidegate.Instant
	decided   *tidegate.Instant // the gate had reserved the epoch; nil: not seen
	activated *tidegate.Instant // nil: not seen
	returned  *tidegate.Instant // its end was known
	served    *tidegate.Instant
	plan      *pb.Plan
}

// active is from when on no canary is the old writer's: the activation, or what surely
// came later. Only of one that has ended well.
func (m *movement) active() tidegate.Instant {
	if m.activated != nil {
		return *m.activated
	}
	return *m.returned
}

func newRun(d *Drill) *run {
	e, fault := Expected(d.opts.Scenario)
	r := &run{
		d: d, began: d.clk.Wall(), expect: e, planned: !fault, addresses: d.cfg.addresses(), services: d.Services(),
		course: NewCourse(d.opts.Scenario, d.clk.Boot()), news: make(chan struct{}),
		there: map[tidegate.ServiceName]*movement{}, witness: map[tidegate.ServiceName]*Witness{}, asserts: newAssertions(&d.cfg),
	}
	for _, s := range r.services {
		r.witness[s] = &Witness{}
	}
	var err error
	if r.id, err = evidence.NewID(); err != nil {
		r.lost = append(r.lost, evidence.Sentence(err))
	}
	return r
}

// tell changes what others wait for.
func (r *run) tell(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	_, accepted := r.tally.Counts()
	r.d.accepted.Store(int64(accepted))
	close(r.news)
	r.news = make(chan struct{})
}

// told reads what others change.
func (r *run) told(read func() any) any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return read()
}

// until waits for a condition, which is asked under the lock whenever anything has
// changed; what says what is waited for.
func (r *run) until(ctx context.Context, bound time.Duration, what string, holds func() bool) error {
	late := fmt.Errorf("%s: not within %s", what, bound)
	ctx, cancel := context.WithTimeoutCause(ctx, bound, late)
	defer cancel()
	for {
		r.mu.Lock()
		ok, news := holds(), r.news
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *run) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// calledError calls a drill off: nothing was found wrong with the service.
type calledError struct{ error }

func (e calledError) Unwrap() error { return e.error }

// harmError calls a drill off that harms the service for too long.
type harmError struct{ error }

// enter makes sure that the drill may begin. Its error refuses the drill.
func (r *run) enter(ctx context.Context) (err error) {
	if r.state, err = openState(r.d.fs, &r.d.cfg); err != nil {
		return err
	}
	if err := r.clean(); err != nil {
		return err
	}
	for i := range looksFirst {
		if i > 0 {
			if err := r.sleep(ctx, r.d.pace.look); err != nil {
				return err
			}
		}
		r.look(ctx)
	}
	r.home, _ = writer(r.sight.service(r.d.cfg.Service))
	if why := cmp.Or(r.broken, r.asserts.soFar()); why != "" {
		return &tidegate.Error{Op: "drill", Subject: string(r.d.cfg.Service), Class: tidegate.Refused, Err: errors.New(why)}
	}
	return r.d.ready(ctx, r.sight, r.services)
}

// ready says why a drill may not begin now; nil: it may.
func (d *Drill) ready(ctx context.Context, s Sight, services []tidegate.ServiceName) error {
	var why []string
	for _, name := range services {
		if node, _ := writer(s.service(name)); node == "" && s.service(name) != nil {
			why = append(why, fmt.Sprintf("who writes %s is not known, or its streams are written at different nodes", name))
		}
		if text := unready(s, name); text != "" {
			why = append(why, text)
			continue
		}
		if text := d.detector(s, name); text != "" {
			why = append(why, text)
		}
		if what, err := d.ctl.Running(ctx, name); err != nil {
			why = append(why, evidence.Sentence(err))
		} else if what != "" {
			why = append(why, fmt.Sprintf("%s of %s runs", what, name))
		}
	}
	why = append(why, d.uncovered(s, services)...)
	if len(why) == 0 {
		for _, name := range services {
			if _, err := d.rehearse(ctx, name); err != nil {
				why = append(why, evidence.Sentence(err))
			}
		}
	}
	if len(why) == 0 {
		return nil
	}
	return &tidegate.Error{
		Op: "drill", Subject: string(d.cfg.Service), Class: tidegate.Refused, Err: errors.New(strings.Join(why, "; ")),
		Hint: "a live drill begins when the service is protected and could change roles: `tidegate status`, `tidegate gate explain " + string(d.cfg.Service) + "`",
	}
}

// detector is why a detector that acts by itself keeps a failover from being drilled.
func (d *Drill) detector(s Sight, name tidegate.ServiceName) string {
	e, _ := Expected(d.opts.Scenario)
	if e.FailsOver && s.service(name).GetDetector().GetSettings().GetMode() == pb.DetectorMode_DETECTOR_MODE_AUTO {
		return fmt.Sprintf("the detector of %s is in mode auto and would fail over beside the drill: `tidegate detector set --mode observe %s` for as long", name, name)
	}
	return ""
}

// uncovered names services that are active at the site of a drill of a whole site, and
// that no canary is written to.
func (d *Drill) uncovered(s Sight, services []tidegate.ServiceName) (out []string) {
	if d.opts.Level != evidence.L4 {
		return nil
	}
	_, site := writer(s.service(d.cfg.Service))
	for _, svc := range s.Status.GetServices() {
		if _, at := writer(svc); at == site && !slices.Contains(services, tidegate.ServiceName(svc.GetName())) {
			out = append(out, fmt.Sprintf("service %s is active at site %s, too, and has no canary in the file", svc.GetName(), site))
		}
	}
	for _, name := range services {
		if _, at := writer(s.service(name)); at != site && s.service(name) != nil {
			out = append(out, fmt.Sprintf("service %s is not active at site %s", name, site))
		}
	}
	return out
}

// request is the first change of role of a drill, which is also what a fault that is
// ridden out must leave possible.
func (d *Drill) request(name tidegate.ServiceName, dry bool, why string) *pb.ChangeRoleRequest {
	kind := pb.PlanKind_PLAN_KIND_FAILOVER
	if _, fault := Expected(d.opts.Scenario); !fault {
		kind = pb.PlanKind_PLAN_KIND_SWITCHOVER
	}
	target := ""
	if name == d.cfg.Service {
		target = d.cfg.Target
	}
	return &pb.ChangeRoleRequest{Service: string(name), Kind: kind, Target: target, DryRun: dry, Overrides: d.cfg.Operator.overrides(), Reason: why}
}

// play carries the course out.
func (r *run) play(outer context.Context) {
	limited, over := context.WithTimeoutCause(outer, r.d.opts.Limit, fmt.Errorf("it has not come to its end within %s", r.d.opts.Limit))
	defer over()
	ctx, call := context.WithCancelCause(limited)
	defer call(context.Canceled)
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx)) // also while a drill that was called off heals
	looking, stopLooking := context.WithCancel(context.WithoutCancel(ctx))
	var writer, watcher sync.WaitGroup
	writer.Go(func() { r.steady(writing) })
	watcher.Go(func() { r.watch(looking, call) })
	r.quiet = func() {
		stopWriting()
		writer.Wait()
		r.tell(func() { r.written = true })
	}
	r.course = NewCourse(r.d.opts.Scenario, r.d.clk.Boot())
	for r.course.Step() != Over {
		step := r.course.Step()
		r.d.step.Store(int32(step)) //nolint:gosec // a few
		err := r.do(ctx, step)
		_, over := errors.AsType[endedError](err)
		if cause := context.Cause(ctx); err != nil && cause != nil && step != Heal && !over {
			err = cause // what it cut short is not the cause
		}
		r.course = r.course.Next(r.event(outer, step, err), r.d.clk.Boot())
	}
	r.d.step.Store(int32(Over))
	if ctx.Err() == nil {
		for range looksFirst {
			r.look(ctx)
		}
	}
	r.quiet()
	stopLooking()
	watcher.Wait()
}

// event is how a step came out.
func (r *run) event(outer context.Context, step Step, err error) Event {
	if err == nil {
		return Event{}
	}
	if _, harm := errors.AsType[harmError](err); harm {
		return Event{Called: evidence.Sentence(err)}
	}
	if _, called := errors.AsType[calledError](err); called {
		return Event{Called: evidence.Sentence(err)}
	}
	if _, over := errors.AsType[endedError](err); outer.Err() != nil && step != Heal && !over {
		return Event{Called: calledOff}
	}
	return Event{Failed: evidence.Sentence(err)}
}

// do carries one step out.
func (r *run) do(ctx context.Context, step Step) error {
	if ctx.Err() != nil && step != Heal {
		return context.Cause(ctx)
	}
	switch step {
	case Steady:
		return r.settle(ctx)
	case Inject:
		return r.inject(ctx)
	case Notice:
		return r.noticed(ctx)
	case Change:
		return r.change(ctx)
	case Serve:
		return r.served(ctx, r.there, &r.serve)
	case Hold:
		return r.sleep(ctx, r.d.cfg.Hold)
	case Back:
		return r.comeBack(ctx)
	case Again:
		return r.served(ctx, map[tidegate.ServiceName]*movement{r.d.cfg.Service: r.back}, nil)
	case Heal:
		err := r.heal(r.d.opts.Scenario, r.open)
		r.tell(func() { r.part = after })
		return err
	case Whole:
		return r.protection(ctx)
	case Lookup:
		r.quiet() // what is accepted from here on nobody looks up
		return r.lookUp(ctx)
	case Checks:
		return r.ask(ctx)
	case Over:
	}
	return nil
}

// look takes one look.
func (r *run) look(ctx context.Context) {
	s := r.d.ctl.Look(ctx)
	if ctx.Err() != nil {
		return // what was cut short says nothing
	}
	r.tell(func() {
		r.sight = s
		if broken := r.asserts.take(r.d.clk.Boot(), s.values(r.d.cfg.Service)); r.broken == "" {
			r.broken = broken
		}
		for name, w := range r.witness {
			w.Take(r.part, s, r.expect, name)
		}
	})
}

// watch looks at the gates until ctx ends, and calls the drill off when clients have been
// refused for too long.
func (r *run) watch(ctx context.Context, call func(error)) {
	tick := time.NewTicker(r.d.pace.look)
	defer tick.Stop()
	began := r.d.clk.Boot()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		r.look(ctx)
		r.tell(func() {
			since, ok := r.tally.Newest(r.names())
			if !ok {
				since = began
			}
			if age := time.Duration(r.d.clk.Boot() - since); age > r.d.cfg.Refused && r.harmed == "" && !r.written {
				r.harmed = fmt.Sprintf("no canary was accepted for %s: %s", age.Round(time.Millisecond), r.tally.LastFailure())
				// Where the service has moved and nobody is served, that has failed.
				if s := Step(r.d.step.Load()); s != Serve && s != Again {
					call(harmError{errors.New(r.harmed)})
				}
			}
			if r.broken != "" {
				call(harmError{errors.New(r.broken)})
			}
		})
	}
}

// names are those of all canaries of this drill.
func (r *run) names() (out []string) {
	for _, s := range r.services {
		out = append(out, r.d.cfg.canaries(s)...)
	}
	return out
}

// settle waits until canaries are accepted as long as they must be before anything is done,
// and until protection is as it must be: what gates say then is not said of the fault.
func (r *run) settle(ctx context.Context) error {
	from := r.d.clk.Boot()
	err := r.until(ctx, r.d.cfg.Steady+r.d.cfg.Pause, "every canary to be accepted", func() bool {
		now := r.d.clk.Boot()
		_, ok := r.tally.Served(r.names(), from)
		return ok && time.Duration(now-from) >= r.d.cfg.Steady
	})
	if err != nil {
		return calledError{fmt.Errorf("%w: nothing was done: %s", err, r.told(func() any { return r.tally.LastFailure() }))}
	}
	last := ""
	err = r.until(ctx, r.d.cfg.Whole, "protection to be as it must be", func() bool {
		for _, name := range r.services {
			if last = cmp.Or(unready(r.sight, name), closed(r.sight.service(name))); last != "" {
				return false
			}
		}
		return true
	})
	if err != nil {
		return calledError{fmt.Errorf("%w: nothing was done: %s", err, last)}
	}
	return nil
}

// noticed waits until the gates say what they must.
func (r *run) noticed(ctx context.Context) error {
	if r.expect.Says == nil {
		return nil
	}
	err := r.until(ctx, r.d.cfg.Notice, "the gates to say "+r.expect.What, func() bool {
		_, ok := r.witness[r.d.cfg.Service].Named()
		return ok
	})
	if err == nil {
		now := r.d.clk.Boot()
		r.tell(func() { r.notice = &now })
	}
	return err
}

// ask asks the operator's own questions.
func (r *run) ask(ctx context.Context) error {
	asker := r.asker(newNumber())
	defer asker.Close()
	for i := range r.d.cfg.Checks {
		k := &r.d.cfg.Checks[i]
		r.checks = append(r.checks, asker.Check(ctx, k.Name, k.Kind(), &k.Ask))
	}
	for i := range r.d.cfg.Journeys {
		r.checks = append(r.checks, asker.Journey(ctx, &r.d.cfg.Journeys[i]))
	}
	return context.Cause(ctx)
}
