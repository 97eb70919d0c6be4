package capture

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
)

func TestServerThatStopsWaitsForTheOtherSiteAndNoLonger(t *testing.T) {
	s := newSite(t, pgtest.Config{}, func(set *Settings) { set.StopWait = 2 * time.Second })
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	began := time.Now()
	s.pg.Stop(t, pgtest.Fast)
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("the server stopped after %s: it did not wait", took)
	}
	s.pg.Start(t)
	s.active()
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
}

func TestDrainEndsWithTheServersLastWord(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	head := s.durable(tidegate.ModeSync, tidegate.Bounds{})
	drain := local.DaemonProgress{
		D: head.Position(), DKnown: true, Epoch: 1, Mode: tidegate.ModeSync, Recorded: true, Record: machine.RecordArmed, Drain: true,
	}
	s.agent.grant(drain)
	s.agent.until("draining", func(a *fakeAgent) bool { return a.progress.Gate == machine.Draining && !a.progress.Drained })
	s.pg.Signal(t, pgtest.Fast)
	for stopped := false; !stopped; {
		select {
		case <-s.pg.Exited():
			stopped = true
		case <-time.After(20 * time.Millisecond):
			drain.D = s.c.Status().Head.Position() // the other site takes what comes
			s.agent.grant(drain)
		}
	}
	s.agent.until("drained", func(a *fakeAgent) bool {
		p := a.progress
		return p.Drained && p.L.Position == p.End && p.L.Position == drain.D && p.A.Position == drain.D && p.AKnown && a.active != nil
	})
	s.pg.Start(t)
	s.agent.until("given up", func(a *fakeAgent) bool { return !a.progress.Drained && a.active != nil })
}
