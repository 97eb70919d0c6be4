package shadow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/internal/local"
	pgrestore "github.com/tidegate/tidegate/stores/postgres/restore"
)

// twin is a service's clone in a sandbox, with the process that has it. What differs
// between kinds of stores lies behind it; the course, isolation, lag, checks and the report
// are the same for all. One goroutine at a time uses it, but progress, which is anybody's.
type twin interface {
	// begin copies what lies before the backlog, starts the service on it, and waits until
	// the service has that. What does not fit is refused.
	begin(ctx context.Context) error
	// catchUp reads the backlog; it is on the sandbox's disk then.
	catchUp(ctx context.Context) error
	// apply waits until the service has the backlog.
	apply(ctx context.Context) error
	// promote tells the service to be active, and waits until it is.
	promote(ctx context.Context) error
	// examine looks at the promoted service as only a store of its kind can be looked at.
	examine(ctx context.Context, ask *probe.Asker) []evidence.Check

	// started reports whether begin has come to starting the process.
	started() bool
	// alive is ctx until the process ends by itself; then its cause says how.
	alive(ctx context.Context) (context.Context, context.CancelFunc)
	// gone is why the process ended by itself; nil while it has not. One that has hung up
	// is waited for a little.
	gone(hungUp bool) error

	// isolation is what was found of the process when it had been started.
	isolation() []evidence.Check
	// backlog is what is left for t0, of all streams together; nil while it is not known.
	backlog() (records, size *int64)
	// streams are what was recovered.
	streams() []evidence.Stream
	// content says whether it is what it must be; applied: the service has come to the cut.
	content(applied bool) []evidence.Check
	progress() string

	// stop ends the process, and close lets go of what was read, whatever has happened.
	stop() error
	close()
}

// ground is what a twin is made on.
type ground struct {
	d      *Drill
	box    *sandbox
	space  space
	reader *archive.Reader
	infos  []archive.StreamInfo
	look   Look
	left   Backlog
	began  time.Time
	chosen func()          // to be called once the cut of a stream is
	beside *errgroup.Group // of what runs beside the course, and ends with its ctx
}

// newTwin is the twin of a service, by the kind of its stores.
func newTwin(ctx context.Context, g ground) (twin, error) {
	service := g.d.cfg.Service
	all, faults, err := g.reader.Streams(ctx)
	if err != nil {
		return nil, err
	}
	for _, f := range faults {
		return nil, f.Err
	}
	kinds := map[string]bool{}
	for _, info := range all {
		if info.Service == service {
			g.infos, kinds[info.Store] = append(g.infos, info), true
		}
	}
	no := func(hint string, err error) error {
		return &tidegate.Error{Op: "rehearse", Subject: string(service), Class: tidegate.Refused, Err: err, Hint: hint}
	}
	pg := g.d.cfg.Postgres != nil
	switch {
	case len(g.infos) == 0:
		return nil, no("a service is rehearsed at a node that keeps its log; `tidegate status` lists them", fmt.Errorf("%s has no stream of it: %w", g.reader, tidegate.ErrNotFound))
	case kinds[local.KindJournal] && len(kinds) == 1 && !pg:
		return &fed{ground: g}, nil
	case kinds[pgrestore.Kind] && len(g.infos) == 1 && pg:
		return &cluster{ground: g}, nil
	case kinds[pgrestore.Kind] && len(g.infos) == 1:
		return nil, no("the drill's file says how it is started: postgres, in place of program", errors.New("its store is postgres"))
	case kinds[local.KindJournal] && len(kinds) == 1:
		return nil, no("the drill's file says how it is started: program, in place of postgres", errors.New("its store is a journal"))
	}
	return nil, no("an L1 drill is for services that are event-sourced, and for those of one PostgreSQL cluster",
		fmt.Errorf("it has %d streams, the first of store %q: %w", len(g.infos), g.infos[0].Store, tidegate.ErrUnsupported))
}

// Backlog is how much is left to replay at t0; at most one is above 0.
type Backlog struct {
	Records int64
	Bytes   int64 // of the source's log
}

// left is the backlog that was chosen, else what the live standby's service has not
// applied. One that is not known is no backlog of 0: the drill is refused.
func (d *Drill) left(look Look) (Backlog, error) {
	if b := d.opts.Backlog; b != nil {
		return *b, nil
	}
	w := look.worst()
	pg := d.cfg.Postgres != nil
	switch {
	case pg && w.Bytes != nil:
		return Backlog{Bytes: *w.Bytes}, nil
	case !pg && w.Records != nil:
		return Backlog{Records: *w.Records}, nil
	}
	hint := "name one: --backlog 1000"
	if pg {
		hint = "name one: --backlog 16MiB"
	}
	return Backlog{}, &tidegate.Error{
		Op: "rehearse", Subject: string(d.cfg.Service), Class: tidegate.Refused,
		Err:  errors.New("the live standby does not say how much it has not applied, so how much to leave for t0 is unknown"),
		Hint: hint + "; `tidegate status` shows whether its service is connected",
	}
}

// share is the part of the i-th of n streams.
func (b Backlog) share(i, n int) Backlog {
	part := func(all int64) int64 {
		one := all / int64(n)
		if int64(i) < all%int64(n) {
			one++
		}
		return one
	}
	return Backlog{part(b.Records), part(b.Bytes)}
}

// first is the first batch of a stream that is left, of those up to tip.
func (b Backlog) first(ctx context.Context, src *archive.Stream, tip archive.Place) (tidegate.Seq, error) {
	if b.Bytes == 0 {
		return src.Tail(ctx, tip.Seq, uint64(max(0, b.Records)))
	}
	from := tip.Next - min(tip.Next, tidegate.Position(b.Bytes)) //nolint:gosec // above 0
	at, err := src.AtPosition(ctx, tip.Generation, from)
	if errors.Is(err, tidegate.ErrNotFound) {
		return src.Branch.Segments[0].First, nil // there is less
	}
	return at.Seq, err
}
