package replay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/clock"
)

// Config is how a replay is made.
type Config struct {
	// RunDir is the run folder that the service in the sandbox is started with.
	RunDir string
	// Speed is the multiple of the source's pace; 0 is as fast as the service applies.
	Speed float64
	// Wait is how long the service may be away: before it first connects, and each time
	// that it has gone. Above 0.
	Wait time.Duration
	// Stay has the replay go on when its plans have been fed: it keeps the sessions, and
	// waits for [Replay.Next] and [Replay.Promote] until its context ends.
	Stay bool
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	var errs []error
	if c.RunDir == "" {
		errs = append(errs, errors.New("run: want a scratch folder for the service's sockets"))
	}
	if !(c.Speed >= 0) {
		errs = append(errs, fmt.Errorf("speed: want a multiple of the source's pace, from 0 on (got %v)", c.Speed))
	}
	if c.Wait <= 0 {
		errs = append(errs, fmt.Errorf("wait: want more than 0 (got %s)", c.Wait))
	}
	if len(errs) > 0 {
		return &tidegate.Error{Op: "configure replay", Class: tidegate.Misuse, Err: errors.Join(errs...)}
	}
	return nil
}

// Verdict is what became of a replay.
type Verdict string

// The verdicts.
const (
	Same    Verdict = "same"    // at the target, and at every mark before it
	Differs Verdict = "differs" // at a mark: nothing behind it was fed
	Unknown Verdict = "unknown" // no digest is on record at the target, or the service gives none
)

// Checked is a mark, and what the service said there.
type Checked struct {
	Mark

	Got tidegate.Digest `json:"got"` // zero: the service gives none
}

// Outcome is what came of one stream's replay.
type Outcome struct {
	Position tidegate.Position // up to where the service was fed
	Records  uint64            // that it was fed by this replay
	Bytes    uint64
	Took     time.Duration   // of the sessions in which it was fed
	Newest   time.Time       // source time of the newest of them; zero: there is none
	Digest   tidegate.Digest // of its state at Position, as it says; zero: it gives none
	Checked  []Checked       // in the order of positions
	Verdict  Verdict
	Why      string // of a verdict that is not the same
}

// Progress is how far a replay has come.
type Progress struct {
	Records uint64
	Bytes   int64 // of the journals
	Total   int64
	Waits   bool // for the service
	// Reached is the source time of the newest record that was fed at the source's pace,
	// unix ns; 0 before there is one.
	Reached int64
}

// Replay feeds the streams of a service, each over its socket.
type Replay struct {
	cfg   Config
	pace  *pace
	feeds []*feed

	records atomic.Uint64
	bytes   atomic.Int64
	total   atomic.Int64
	waiting atomic.Int64 // streams whose service is not there
	reached atomic.Int64

	over  chan struct{} // closed when Run ends
	final []Outcome     // what Run returns, both; of after over
	err   error
}

// New makes a replay of at least one plan, all of one service. It does no I/O.
func New(clk clock.Clock, cfg Config, plans []*Plan) (*Replay, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Replay{cfg: cfg, over: make(chan struct{})}
	since := plans[0].Since
	for _, p := range plans {
		r.feeds = append(r.feeds, &feed{
			r: r, p: p, marks: p.marks, orders: make(chan order, 1), fedAll: make(chan Outcome, 1), promoted: make(chan struct{}),
		})
		r.total.Add(p.Bytes)
		if p.Since.Before(since) {
			since = p.Since
		}
	}
	r.pace = newPace(clk, cfg.Speed, since, len(plans))
	return r, nil
}

// Since is the source time with which the source's pace begins.
func (r *Replay) Since() time.Time { return r.pace.since }

// Progress may be called at any time.
func (r *Replay) Progress() Progress {
	return Progress{
		Records: r.records.Load(), Bytes: r.bytes.Load(), Total: r.total.Load(),
		Waits: r.waiting.Load() > 0, Reached: r.reached.Load(),
	}
}

// Run waits for the service, feeds it, and returns what came of each plan, in their
// order. A digest that differs is no error: it is in the outcomes, and ends the replay
// of all streams. The service may go away and come back; one that does not is an error of
// class Transient. One that stays returns when ctx ends, or at the first error, and says
// what came of the latest plans. May be called once.
func (r *Replay) Run(ctx context.Context) ([]Outcome, error) {
	r.final, r.err = r.run(ctx)
	close(r.over)
	return r.final, r.err
}

func (r *Replay) run(ctx context.Context) ([]Outcome, error) {
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	paced, stop := context.WithCancel(ctx)
	defer stop()
	var pacing errgroup.Group
	pacing.Go(func() error { return r.pace.run(paced) })
	out := make([]Outcome, len(r.feeds))
	var differs atomic.Bool
	for i, f := range r.feeds {
		g.Go(func() error {
			err := f.run(ctx)
			out[i] = f.outcome()
			if out[i].Verdict == Differs {
				differs.Store(true)
				cancel() // what the others would say is of no use
			}
			return err
		})
	}
	err := g.Wait()
	stop()
	_ = pacing.Wait() // it returns none
	if differs.Load() {
		err = nil
	}
	if outer.Err() != nil {
		err = errors.Join(err, outer.Err())
	}
	return out, err
}
