package capture

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores"
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

// Whoever keeps the server may hear of a switchover before the agent does.
func TestServerThatStoppedBeforeTheDrainHasSaidItsLastWord(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	grant := local.DaemonProgress{DKnown: true, Epoch: 1, Mode: tidegate.ModeSync, Recorded: true, Record: machine.RecordArmed}
	s.pg.Signal(t, pgtest.Fast)
	for stopped := false; !stopped; {
		select {
		case <-s.pg.Exited():
			stopped = true
		case <-time.After(20 * time.Millisecond):
			grant.D = s.c.Status().Head.Position() // the other site takes what comes
			s.agent.grant(grant)
		}
	}
	grant.Drain = true
	s.agent.grant(grant)
	s.agent.until("drained", func(a *fakeAgent) bool {
		p := a.progress
		return p.Drained && p.L.Position == p.End && p.L.Position == grant.D && a.active != nil
	})
	s.pg.Start(t)
	s.agent.until("given up", func(a *fakeAgent) bool { return !a.progress.Drained })
}

// A primary that was fenced, was made a standby and is promoted is a source again;
// as a standby of the other site it keeps no slot. While it is fenced a stop of it
// waits for nobody.
func TestFenceEndsWithAPromotion(t *testing.T) {
	s := newSite(t, pgtest.Config{}, func(set *Settings) { set.StopWait = time.Hour })
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.agent.role(local.Role{State: local.StateFenced, Epoch: 2})
	s.agent.until("fenced", func(a *fakeAgent) bool { return a.active == nil })
	s.pg.Restart(t)
	s.agent.until("streaming", func(*fakeAgent) bool { return s.c.Status().Streaming })
	if s.c.Status().Active {
		t.Fatal("a restart made it active")
	}
	s.pg.WriteFile(t, filepath.Join(s.pg.DataDir, "standby.signal"), "", 0o600)
	s.pg.Restart(t)
	s.c.Stand(stores.Standing{Part: stores.PartAway})
	pgtest.Until(t, "the slot to be dropped", func(ctx context.Context) error {
		n, err := s.pg.Text(ctx, "SELECT count(*) FROM pg_replication_slots")
		if err == nil && n != "0" {
			err = errors.New("there is " + n)
		}
		return err
	})
	s.agent.until("streaming", func(*fakeAgent) bool { return s.c.Status().Streaming })
	s.pg.Promote(t)
	s.agent.until("active", func(a *fakeAgent) bool { return a.active != nil && s.c.Status().Active })
	s.agent.role(local.Role{State: local.StateFenced, Epoch: 2}) // late, of what it was before
	s.agent.role(local.Role{State: local.StateActive, Epoch: 3})
	s.agent.until("obeys", func(a *fakeAgent) bool { return a.active != nil })
}
