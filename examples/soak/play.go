package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// patience bounds each wait: a soak that hangs has failed.
const patience = time.Minute

// cutOff is how long a frozen site goes on without its link.
const cutOff = 700 * time.Millisecond

// play is one round under way, and what it has shown.
type play struct {
	round round
	plant lab.Plant
	lab   *lab.Lab
	out   io.Writer
	begun time.Time

	outage   time.Duration // of the registry, which is then one of its own; 0: none
	registry *lab.Registry

	acks    *lab.AckTail
	witness *lab.Witness

	kills     int
	handovers []handover
	plan      *pb.Plan
	beyond    []beyond
	digests   []digests
	check     client.Report
	counts    client.Counts
	longest   int // batches in the longest log
	epochs    int // that wrote it
	broken    []error
	took      time.Duration
}

func (p *play) say(format string, args ...any) {
	fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.begun).Seconds(), fmt.Sprintf(format, args...))
}

// run plays a whole round. An error means that it could not be played to its
// end, which is a failure as well; what did not hold is in broken.
func (p *play) run(ctx context.Context, handovers int, disaster bool) error {
	p.begun = time.Now()
	defer func() { p.took = time.Since(p.begun) }()
	if p.outage > 0 {
		stop, err := p.ownRegistry()
		if err != nil {
			return err
		}
		defer stop()
	}
	l, err := lab.New(p.plant)
	if err != nil {
		return err
	}
	defer l.Close()
	p.lab, p.acks = l, l.Tail()
	if err := within(ctx, func(ctx context.Context) error { return l.Up(ctx, func(string) {}) }); err != nil {
		return err
	}
	if err := l.StartLoad("--accounts", "50", "--seed", fmt.Sprint(p.round.seed)); err != nil {
		return err
	}
	stop := p.watchExposure(ctx)
	defer stop()
	if err := p.recovered(ctx, "the first transfers"); err != nil {
		return err
	}
	if err := p.kill(ctx); err != nil {
		return err
	}
	for range handovers {
		if err := p.recovered(ctx, "transfers after the kills"); err != nil {
			return err
		}
		if err := p.handOver(ctx); err != nil {
			return err
		}
	}
	if err := p.recovered(ctx, "transfers with everything up"); err != nil {
		return err
	}
	if p.outage > 0 {
		if err := p.withoutRegistry(ctx); err != nil {
			return err
		}
	}
	if disaster {
		if err := p.lose(ctx); err != nil {
			return err
		}
	}
	if err := p.redundant(ctx); err != nil {
		return err
	}
	p.say("every standby node has the writer's epoch")
	if disaster {
		if p.plan, err = l.Plan(ctx, p.plan.GetId()); err != nil {
			return err
		}
	}
	if p.counts, err = l.StopLoad(patience); err != nil {
		return err
	}
	stop()
	if p.check, err = l.Check(ctx, l.Route()); err != nil {
		return err
	}
	// Logs are read when nobody writes them any more.
	l.Close()
	return p.judge(ctx)
}

// within bounds a wait.
func within(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f(ctx)
}

// watchExposure samples all agents; the returned function ends that and may be
// called again.
func (p *play) watchExposure(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, m := range append(p.lab.Primaries(), p.lab.Standbys()...) {
		all.Go(func() { p.witness.Watch(ctx, m, p.lab.AgentURL(m)) })
	}
	return func() { cancel(); all.Wait() }
}

// kill carries out the round's script.
func (p *play) kill(ctx context.Context) error {
	began := time.Now()
	for _, d := range p.round.deeds {
		if err := p.pause(ctx, time.Until(began.Add(d.at))); err != nil {
			return err
		}
		p.say("  %s", d)
		proc := p.lab.Proc(d.name)
		if d.kill {
			proc.Kill()
			p.kills++
		} else if err := proc.Start(); err != nil {
			return err
		}
	}
	return nil
}

// pause waits, but not for long once a process has ended by itself.
func (p *play) pause(ctx context.Context, span time.Duration) error {
	end := time.After(span)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := p.lab.Died(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end:
			return nil
		case <-tick.C:
		}
	}
}

// recovered waits until both streams go on: whatever was killed, a little later
// clients are served.
func (p *play) recovered(ctx context.Context, what string) error {
	begun := time.Now()
	return within(ctx, func(ctx context.Context) error {
		return p.lab.Until(ctx, what, func(context.Context) error {
			if err := p.acks.Read(); err != nil {
				return err
			}
			for _, c := range ledger.Currencies() {
				if n := p.acks.Since(c, begun); n < 20 {
					return fmt.Errorf("%d of %s", n, c)
				}
			}
			return nil
		})
	})
}

// lose loses the primary site, fails over and waits for the clients to carry on.
func (p *play) lose(ctx context.Context) error {
	if p.round.missing != "" {
		p.say("kill -9 %s, for the length of the failover", p.round.missing)
		p.lab.Proc(p.round.missing).Kill()
		p.kills++
	}
	p.say("disaster: the primary site is %s", p.round.disaster)
	switch p.round.disaster {
	case frozen:
		if err := p.lab.FreezeSite(ctx, lab.SitePrimary, cutOff); err != nil {
			return err
		}
	case killed:
		p.lab.KillSite(lab.SitePrimary)
		p.kills += len(p.lab.Procs(lab.SitePrimary))
	}
	return within(ctx, func(ctx context.Context) error {
		if _, err := p.lab.Noticed(ctx); err != nil {
			return err
		}
		text, plan, err := p.lab.Failover(ctx, fmt.Sprintf("soak: round %d", p.round.number))
		if err != nil {
			p.say("%s", text)
			return err
		}
		p.plan = plan
		if err := p.served(ctx); err != nil {
			return err
		}
		if err := p.measure(); err != nil {
			return err
		}
		return p.back(ctx)
	})
}

// served waits for the first acknowledgements of the DR site.
func (p *play) served(ctx context.Context) error {
	return p.lab.Until(ctx, "acknowledgements of the DR site", func(context.Context) error {
		if err := p.acks.Read(); err != nil {
			return err
		}
		for _, c := range ledger.Currencies() {
			if _, ok := p.acks.First(c, p.epochOf(c)-1); !ok {
				return fmt.Errorf("none of %s", c)
			}
		}
		return nil
	})
}

// back brings back what was missing during the failover, and what was frozen.
func (p *play) back(ctx context.Context) error {
	if p.round.missing != "" {
		if err := p.lab.Proc(p.round.missing).Start(); err != nil {
			return err
		}
	}
	if p.round.disaster != frozen {
		return nil
	}
	p.say("the primary site thaws")
	if err := p.lab.ThawSite(lab.SitePrimary); err != nil {
		return err
	}
	return p.lab.Until(ctx, "the old writer to report its tail", func(ctx context.Context) error {
		plan, err := p.lab.Plan(ctx, p.plan.GetId())
		if err != nil {
			return err
		}
		p.plan = plan
		for _, st := range plan.GetStreams() {
			if st.GetLoss().GetMeasured() == nil {
				return fmt.Errorf("nothing about %s", st.GetName())
			}
		}
		p.say("the old writer has counted its tail")
		return nil
	})
}

// redundant waits until every standby node has the writer's epoch on its disk.
func (p *play) redundant(ctx context.Context) error {
	return within(ctx, func(ctx context.Context) error {
		return p.lab.Until(ctx, "all standby nodes to have the writer's epoch", func(ctx context.Context) error {
			st, err := p.lab.Status(ctx)
			if err != nil {
				return err
			}
			if len(st.GetServices()) == 0 {
				return errors.New("the gate shows no service")
			}
			for _, s := range st.GetServices()[0].GetStreams() {
				want := s.GetView().GetEpoch().GetEpoch()
				if len(s.GetMembers()) != len(p.lab.Standbys()) {
					return fmt.Errorf("stream %s has %d members", s.GetView().GetName(), len(s.GetMembers()))
				}
				for _, m := range s.GetMembers() {
					if got := m.GetStream().GetDurable().GetEpoch(); got != want {
						return fmt.Errorf("stream %s: %s has epoch %d, the writer's is %d", s.GetView().GetName(), m.GetNode(), got, want)
					}
				}
			}
			return nil
		})
	})
}
