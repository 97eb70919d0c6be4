package lab_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab/pglab"
)

// A cluster loses its primary and promotes its replica by its own means: the stream
// goes on from there, over the fork, armed as it was, and the warm server follows it.
// The lost primary comes back by itself, and is told nothing. Then the whole site is
// lost, and no commit that any of the three servers confirmed is.
func TestPostgresClusterPromotesItsReplica(t *testing.T) {
	s := newPostgres(t, pglab.Config{Cluster: true}, tidegate.ModeSync, tidegate.Bounds{})
	_, first := s.writer(t, []string{"p1"}, 0)
	s.until(t, "the replica to be made ready", func(ctx context.Context) error {
		got, err := s.pg.Replica.Text(ctx, "SELECT current_setting('synchronous_standby_names'), count(*) FROM pg_replication_slots WHERE active")
		if err == nil && got != "tidegate|1" {
			err = fmt.Errorf("names and slots are %s", got)
		}
		return err
	})

	s.clients.Mark()
	begun := time.Now()
	s.within(t, s.pg.Promote)
	_, second := s.writer(t, []string{"p2"}, first)
	s.more(t, 100)
	t.Logf("the replica was promoted, and clients served by it, after %s; they were told nothing for %s", since(begun), s.clients.Pause().Round(time.Millisecond))
	s.within(t, func(ctx context.Context) error { return s.pg.Armed(ctx, pb.Mode_MODE_SYNC) })
	s.followed(t, "d1", s.pg.Warm)

	if err := s.pg.Primary.Start(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.pg.Stranger(t.Context(), pglab.Level(tidegate.ModeSync)); err != nil {
		t.Errorf("%s: %v", got, err)
	}
	s.until(t, "the lost primary to be found out", func(ctx context.Context) error {
		st, err := s.agentStatus(ctx, "p1")
		if err == nil && (len(st.Streams) != 1 || st.Streams[0].Observer == nil || st.Streams[0].Observer.Diverged == "" || st.Streams[0].State == agent.StateWriting) {
			err = errors.New("it is not said to have diverged")
		}
		return err
	})
	if _, still := s.writer(t, []string{"p2"}, first); still != second {
		t.Errorf("the epoch is %s, was %s before the lost primary came back", still, second)
	}

	silent := time.Now()
	if err := s.pg.KillSite(); err != nil {
		t.Fatal(err)
	}
	s.within(t, func(ctx context.Context) error {
		took, err := s.pg.Survive(ctx, s.clients, "the test lost the site", second, silent)
		if err == nil {
			t.Logf("site lost, first commit after %s: %s", took.RTO.Round(time.Millisecond), pglab.PhasesText(took.Plan))
		}
		return err
	})
	s.timeline(t, 3)
	if loss := s.compare(t); loss.Lost > 0 {
		t.Errorf("%d commits are lost that clients were told of", loss.Lost)
	}
}
