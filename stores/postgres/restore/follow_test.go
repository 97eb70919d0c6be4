package restore_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/stores/postgres/restore"
	"github.com/tidegate/tidegate/stores/postgres/server"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// follows restores to the middle of the log a server that follows, lays the rest while it
// runs, and promotes it at the end.
func (s *source) follows(t *testing.T) {
	s.Work(t, 2000)
	s.Archive(t)
	stream, _ := s.open(t)
	tip, err := stream.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan := s.plan(t, cold.To{})
	middle, err := stream.AtSeq(t.Context(), (plan.Begin.Seq+tip.Seq)/2)
	if err != nil {
		t.Fatal(err)
	}
	tg := s.target(t)
	tg.Restorer = s.restorerOf(t, tg.fsys, tg.home, func(cfg *restore.Config) {
		cfg.Follows, cfg.Final = true, map[string]string{"primary_conninfo": "", "work_mem": "4321kB", "wal_retrieve_retry_interval": "10ms", "wal_recycle": "off"}
	})
	res, err := tg.run(t.Context(), s.plan(t, cold.To{Seq: middle.Seq}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	srv := tg.Server()
	if err := errors.Join(srv.Start(ctx, server.Follow), srv.WaitReady(ctx)); err != nil {
		t.Fatal(err)
	}
	if st, err := srv.State(ctx); err != nil || st.Replayed > segmentSize.End(wal.LSN(res.Position)) || st.Replayed.Position() >= tip.First {
		t.Errorf("it has %s, and was shown %s: %v", st.Replayed, res.Position, err)
	}
	for b, err := range stream.Batches(ctx, middle.Seq+1) {
		if err != nil {
			t.Fatal(err)
		}
		h, payload, err := new(batch.Opener).Open(nil, b.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tg.Batch(ctx, &h, payload); err != nil {
			t.Fatal(err)
		}
		if h.Seq == tip.Seq {
			break
		}
	}
	end, err := tg.Show()
	if err != nil || end.Position() != tip.Next {
		t.Fatalf("laid up to %s, %v; want %s", end, err, tip.Next)
	}
	if err := srv.WaitReplayed(ctx, end); err != nil {
		t.Fatal(err)
	}
	if st, err := srv.State(ctx); err != nil || !st.LastCommit.Equal(tg.Last()) {
		t.Errorf("its last transaction is of %s, and the log's of %s: %v", st.LastCommit, tg.Last(), err)
	}
	if p, err := srv.Promote(ctx, end); err != nil || p.Fork < end {
		t.Fatalf("%+v, %v", p, err)
	}
	if got, want := tg.says(t, digestSQL), s.SQL(t, digestSQL); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := tg.says(t, "SELECT current_setting('primary_conninfo'), current_setting('work_mem'), source FROM pg_settings WHERE name = 'work_mem'"); got != "|4321kB|command line" {
		t.Errorf("settings that were final: %s", got)
	}
	other := s.Line
	other.Forks = append(slices.Clone(other.Forks), wal.Fork{Timeline: other.Timeline() + 1, At: end})
	payload, err := batch.Lineage{Lineage: other.Text()}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tg.Batch(ctx, &batch.Header{Kind: batch.KindLineage, First: end.Position(), Next: end.Position()}, payload); !errors.Is(err, restore.ErrHistory) {
		t.Errorf("another history: %v", err)
	}
}
