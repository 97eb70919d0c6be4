package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/retry"
)

// Claim is a drill that a gate has given to this worker.
type Claim struct {
	ID       string
	Level    string
	Scenario string
	Silence  time.Duration // without a report for so long it is lost
}

// End is what came of it.
type End struct {
	Outcome string // a verdict of drills
	Why     string
	Report  string // id; empty: there is none
}

// Gates are whom a worker asks about one service. Every call may fail, and is tried again.
type Gates interface {
	// Take returns the drill that is due now; nil and why: none.
	Take(ctx context.Context) (c *Claim, why string, err error)
	// Report says how far a drill is. A reason calls it off.
	Report(ctx context.Context, claim, step string) (abort string, err error)
	// End says how it ended; held is false when the worker had lost it before. It is safe to repeat.
	End(ctx context.Context, claim string, e End) (held bool, err error)
}

// Drill is one drill that is about to run.
type Drill interface {
	// Run comes to its end also when ctx ends, whose cause is why it is called off.
	Run(ctx context.Context) End
	// Progress may be called beside it.
	Progress() string
	// Record has a gate write down what came of it. It is safe to repeat.
	Record(ctx context.Context) error
}

// Job is a service that is rehearsed.
type Job struct {
	Service tidegate.ServiceName
	Gates   Gates
	// Clean ends and removes what a worker that was killed has left, and names it.
	Clean func() (left []string, err error)
	// Begin makes the drill of a claim; an error refuses it.
	Begin func(Claim) (Drill, error)

	clean bool // nothing is left of what was there when this worker began
}

// Config is how a worker works.
type Config struct {
	Every time.Duration // between questions for drills; above 0
	Last  time.Duration // for the last words of a drill once the worker is to stop; above 0
}

// alone is for how long a drill goes on that was lost because no gate hears of it: less
// than a gate waits until another worker may begin it again.
const alone = 5 * time.Minute

// callMax bounds one report.
const callMax = 30 * time.Second

// patience is how the last words of a drill are tried again.
var patience = retry.Policy{Max: time.Second}

// reports is how many reports of a drill there are in the time after which it is lost.
const reports = 6

// Worker is a process that takes drills. Run may be called once.
type Worker struct {
	clock clock.Clock
	log   *slog.Logger
	jobs  []Job
	cfg   Config
}

// New returns a worker; it does no I/O.
func New(clk clock.Clock, log *slog.Logger, jobs []Job, cfg Config) *Worker {
	return &Worker{clock: clk, log: log, jobs: jobs, cfg: cfg}
}

// Run works until ctx ends; nil then, and the drill that was under way has ended, too. A
// service of which something is left that cannot be cleaned is tried again at each turn: the
// others are rehearsed meanwhile.
func (w *Worker) Run(ctx context.Context) error {
	for i := range w.jobs {
		if err := w.cleans(&w.jobs[i]); err != nil {
			w.log.Error("what a drill has left is there still", "service", w.jobs[i].Service, "err", err, "hint", tidegate.HintOf(err))
		}
	}
	said := map[tidegate.ServiceName]string{}
	tick := time.NewTicker(w.cfg.Every)
	defer tick.Stop()
	for {
		for i := range w.jobs {
			j := &w.jobs[i]
			if text := w.turn(ctx, j); text != said[j.Service] && ctx.Err() == nil {
				w.log.Info("no drill begins", "service", j.Service, "why", text)
				said[j.Service] = text
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// cleans makes sure that nothing is left of what another worker began.
func (w *Worker) cleans(j *Job) error {
	if j.clean {
		return nil
	}
	left, err := j.Clean()
	for _, what := range left {
		w.log.Warn("a drill that was killed had left it, and it was cleaned", "service", j.Service, "what", what)
	}
	j.clean = err == nil
	return err
}

// turn takes the drill of a service that is due, if there is one, and carries it out. It
// says why there is none.
func (w *Worker) turn(ctx context.Context, j *Job) string {
	if err := w.cleans(j); err != nil {
		return "what a drill has left cannot be cleaned: " + err.Error()
	}
	c, why, err := j.Gates.Take(ctx)
	switch {
	case err != nil:
		return err.Error()
	case c == nil:
		return why
	}
	w.log.Info("drill begins", "service", j.Service, "claim", c.ID, "level", c.Level, "scenario", c.Scenario)
	e := w.carry(ctx, j, *c)
	w.log.Info("drill ended", "service", j.Service, "claim", c.ID, "outcome", e.Outcome, "why", e.Why, "report", e.Report)
	return "one has just ended"
}

// calledOffError is the cause of a drill's end that a gate wants.
type calledOffError struct{ reason string }

func (e calledOffError) Error() string { return e.reason }

// carry carries one drill out.
func (w *Worker) carry(ctx context.Context, j *Job, c Claim) End {
	d, err := j.Begin(c)
	if err != nil {
		e := End{Outcome: "refused", Why: err.Error()}
		w.end(ctx, j, c, e)
		return e
	}
	running, callOff := context.WithCancelCause(ctx)
	defer callOff(nil)
	// Reports go on while the drill is torn down and written down: it is this worker's
	// until its end is known.
	reporting, stop := context.WithCancel(context.WithoutCancel(ctx))
	var beside sync.WaitGroup
	beside.Go(func() { w.report(reporting, j, c, d, callOff) })
	e := d.Run(running)
	last, cancel := w.last(ctx, c)
	defer cancel()
	if e.Report != "" {
		// A gate that is away is waited for: no verdict counts that has no report on record.
		if err := patience.Do(last, d.Record); err != nil {
			w.log.Warn("no gate has the report on record, so drill-fresh does not count this drill; the next one sends it, too", "service", j.Service, "err", err, "hint", tidegate.HintOf(err))
		}
	}
	w.end(last, j, c, e)
	stop()
	beside.Wait()
	return e
}

// last bounds what is said once a drill is over: as long as it is this worker's, and less
// when the worker is to stop.
func (w *Worker) last(ctx context.Context, c Claim) (context.Context, context.CancelFunc) {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(w.cfg.Last, 2*c.Silence))
	stopped := context.AfterFunc(ctx, func() { time.AfterFunc(w.cfg.Last, cancel) })
	return last, func() {
		stopped()
		cancel()
	}
}

// report says how far a drill is until ctx ends. Gates that are away are tried again: the
// drill goes on meanwhile.
func (w *Worker) report(ctx context.Context, j *Job, c Claim, d Drill, callOff context.CancelCauseFunc) {
	tick := time.NewTicker(max(c.Silence/reports, time.Millisecond))
	defer tick.Stop()
	away, heard := false, w.clock.Boot()
	for {
		sent := w.clock.Boot()
		one, cancel := context.WithTimeout(ctx, min(c.Silence, callMax))
		abort, err := j.Gates.Report(one, c.ID, d.Progress())
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !away:
			w.log.Warn("no gate hears of the drill, it goes on", "service", j.Service, "err", err)
		case err == nil && abort != "":
			w.log.Warn("drill is called off", "service", j.Service, "reason", abort)
			callOff(calledOffError{abort})
		}
		if away = err != nil; !away {
			heard = sent
		} else if silent := time.Duration(w.clock.Boot() - heard); silent > c.Silence+alone {
			callOff(calledOffError{fmt.Sprintf("no gate has heard of it for %s: it may be another worker's by now", silent.Round(time.Second))})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// end says how a drill ended until a gate has heard it, or ctx ends.
func (w *Worker) end(ctx context.Context, j *Job, c Claim, e End) {
	b := patience.Backoff()
	for {
		held, err := j.Gates.End(ctx, c.ID, e)
		switch {
		case err == nil && !held:
			w.log.Warn("the drill was not this worker's any more: its end is not on record, its report may be", "service", j.Service, "claim", c.ID)
			return
		case err == nil:
			return
		case tidegate.ClassOf(err) != tidegate.Transient:
			w.log.Error("no gate takes the end of the drill", "service", j.Service, "err", err)
			return
		}
		if b.Wait(ctx) != nil {
			w.log.Warn("no gate has heard of the end of the drill: it lapses there", "service", j.Service, "err", errors.Join(err, ctx.Err()))
			return
		}
	}
}
