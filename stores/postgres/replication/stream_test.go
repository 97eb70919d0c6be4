package replication_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

func TestStreamsWhatTheServerWrote(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1, Settings: map[string]string{"wal_keep_size": "1GB"}})
	slot := createSlot(t, s, "tide")
	if err := slot.Check(); err != nil || slot.Timeline != 1 {
		t.Fatalf("slot %+v: %v", slot, err)
	}
	c := connect(t, config(s))
	size, err := c.SegmentSize(t.Context())
	if err != nil || size != wal.SegmentSizeMin {
		t.Fatalf("segment size %d, %v", size, err)
	}
	from := size.Start(slot.Restart)
	live, err := c.Start(t.Context(), replication.StartOptions{Slot: "tide", Timeline: 1, From: from})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	s.BenchInit(t, 1)
	s.Tool(t, "pgbench", "-n", "-c", "4", "-t", "200")
	s.SQL(t, "SELECT pg_switch_wal()")
	s.Tool(t, "pgbench", "-n", "-c", "4", "-t", "200")
	end := lsn(t, s.LSN(t))
	log := upTo(t, live, end)
	same(t, "live", log[:end-from], segments(t, s, 1, size, from, end))

	for range 10 {
		at := from + wal.LSN(rand.Uint64N(uint64(end-from))) // mostly inside a record
		resumed := stream(t, config(s), replication.StartOptions{Timeline: 1, From: at})
		again := upTo(t, resumed, end)
		same(t, "resumed at "+at.String(), again[:end-at], log[at-from:end-from])
		if err := resumed.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestIdleServerSpeaksWhenAsked(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	cfg := config(s)
	cfg.SilenceMax = 400 * time.Millisecond // it asks at the half
	slot := createSlot(t, s, "tide")
	st := stream(t, cfg, replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	upTo(t, st, lsn(t, s.LSN(t)))
	for quiet := 0; quiet < 4; { // every one a word that was asked for
		m, err := st.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.Keepalive() {
			quiet++
			if m.End < slot.Restart || time.Since(time.Unix(0, m.SentAt)).Abs() > time.Minute {
				t.Errorf("keepalive %+v", m)
			}
		}
	}
}

func TestStatusReleasesCommitsAndMovesTheSlot(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	slot := createSlot(t, s, "tide")
	s.SQL(t, "CREATE TABLE a (n int)")
	st := stream(t, config(s), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	s.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = 'tidegate'")
	s.SQL(t, "SELECT pg_reload_conf()")
	q := connectSQL(t, s)

	var mu sync.Mutex
	var received wal.LSN
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := st.Receive()
			if err != nil {
				return
			}
			mu.Lock()
			received = max(received, m.Next())
			mu.Unlock()
		}
	})
	at := func() wal.LSN { mu.Lock(); defer mu.Unlock(); return received }
	flush := slot.Restart
	if err := st.Status(replication.Status{Write: flush, Flush: flush}); err != nil {
		t.Fatal(err)
	}
	pgtest.Until(t, "the server to take us for synchronous", func(ctx context.Context) error {
		senders, err := q.Senders(ctx)
		if err != nil || len(senders) != 1 || senders[0].Sync != "sync" || senders[0].State != "streaming" {
			return fmt.Errorf("%+v, %w", senders, err)
		}
		return nil
	})
	for _, level := range []string{"remote_write", "on", "remote_apply"} {
		commit := s.Beside(t, "psql", "-c", "SET synchronous_commit = "+level+"; INSERT INTO a VALUES (1)")
		s.UntilSQL(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1")
		pgtest.Until(t, "the commit's log", func(context.Context) error {
			if end := lsn(t, s.LSN(t)); at() < end {
				return fmt.Errorf("at %s of %s", at(), end)
			}
			return nil
		})
		here := at()
		told := replication.Status{Write: here, Flush: flush}
		if level != "remote_write" {
			told.Flush, flush = here, here
		}
		if level == "remote_apply" {
			told.Apply = here
		}
		if err := st.Status(told); err != nil {
			t.Fatal(err)
		}
		if err := commit.Wait(t.Context()); err != nil {
			t.Fatalf("%s: %v", level, err)
		}
	}
	if err := st.Feedback(replication.Feedback{Xmin: 700}); err != nil {
		t.Error(err)
	}
	s.UntilSQL(t, "SELECT xmin IS NOT NULL FROM pg_replication_slots", "t")
	pgtest.Until(t, "the slot", func(ctx context.Context) error {
		slots, err := q.Slots(ctx)
		if err != nil || len(slots) != 1 || slots[0].Restart != flush || slots[0].Keeping != replication.KeepingReserved || slots[0].ActivePID == 0 || slots[0].HasSafe {
			return fmt.Errorf("%+v, %w", slots, err)
		}
		return nil
	})
	if err := st.Status(replication.Status{Write: 1, Flush: 2}); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("a flush beyond the write: %v", err)
	}
	st.Close()
	wg.Wait()
	if _, err := st.Receive(); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("after Close: %v", err)
	}
	if err := st.Status(replication.Status{}); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("status after Close: %v", err)
	}
}

// TestShutdown: a fast shutdown waits until everything is flushed here, and then
// ends the stream in order.
func TestShutdown(t *testing.T) {
	s := pgtest.New(t, pgtest.Config{})
	slot := createSlot(t, s, "tide")
	st := stream(t, config(s), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	if err := st.Status(replication.Status{Write: slot.Restart, Flush: slot.Restart}); err != nil {
		t.Fatal(err)
	}
	s.SQL(t, "CREATE TABLE a (n int)")
	s.Signal(t, pgtest.Fast)
	asked := false
	for !asked { // "do you live?", with what we said last: not flushed
		m, err := st.Receive()
		if err != nil {
			t.Fatal(err)
		}
		asked = m.Reply
	}
	select {
	case <-s.Exited():
		t.Fatal("it ended before all was flushed")
	default:
	}
	for {
		m, err := st.Receive()
		if err != nil {
			if !errors.Is(err, replication.ErrNotReady) || tidegate.ClassOf(err) != tidegate.Transient {
				t.Errorf("the end: %v", err)
			}
			break
		}
		// It may have heard enough and be gone before it takes this: what it said last is still to be received.
		if err := st.Status(replication.Status{Write: m.Next(), Flush: m.Next()}); err != nil && tidegate.ClassOf(err) != tidegate.Transient {
			t.Fatal(err)
		}
	}
	<-s.Exited()
}

func TestEndOfTimeline(t *testing.T) {
	p := pgtest.New(t, pgtest.Config{SegmentSizeMiB: 1})
	r := p.Replica(t, pgtest.Config{})
	slot := createSlot(t, r, "tide") // on a standby
	live := stream(t, config(r), replication.StartOptions{Slot: "tide", Timeline: 1, From: slot.Restart})
	p.SQL(t, "CREATE TABLE a AS SELECT generate_series(1, 1000) n")
	r.UntilReplayed(t, p.LSN(t))
	p.SQL(t, "CHECKPOINT")
	p.Kill(t)
	r.Promote(t)
	r.SQL(t, "INSERT INTO a VALUES (1)")

	var got []byte
	var end *replication.TimelineEnd
	for {
		m, err := live.Receive()
		if err != nil {
			if !errors.As(err, &end) {
				t.Fatal(err)
			}
			break
		}
		got = append(got, m.Data...)
	}
	if end.Timeline != 1 || end.Next != 2 || end.At != slot.Restart+wal.LSN(len(got)) {
		t.Fatalf("%+v after %d bytes from %s", end, len(got), slot.Restart)
	}
	if err := live.Status(replication.Status{}); !errors.Is(err, tidegate.ErrStopped) {
		t.Errorf("status after the end: %v", err)
	}

	c := connect(t, config(r))
	id, lineage, err := c.Lineage(t.Context())
	if err != nil || id.Timeline != 2 || lineage.Timeline() != 2 {
		t.Fatalf("%+v %s: %v", id, lineage, err)
	}
	if next, at, ok := lineage.End(1); !ok || next != 2 || at != end.At {
		t.Errorf("lineage %s: timeline 1 ends at %s, %s follows", lineage, at, next)
	}
	if _, err := c.History(t.Context(), 1); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("history of the first timeline: %v", err)
	}

	// From before the end, on a new connection: the rest, and the end.
	late := stream(t, config(r), replication.StartOptions{Timeline: 1, From: slot.Restart})
	again := upTo(t, late, end.At)
	same(t, "again", again, got)
	if _, err := late.Receive(); !errors.As(err, new(*replication.TimelineEnd)) {
		t.Errorf("at the end: %v", err)
	}
	// Exactly at the end: nothing but the end.
	if _, err := c.Start(t.Context(), replication.StartOptions{Timeline: 1, From: end.At}); !errors.As(err, &end) || end.Next != 2 {
		t.Errorf("from the end: %v", err)
	}
	// The new timeline begins with the old one's prefix of its segment.
	next := stream(t, config(r), replication.StartOptions{Slot: "tide", Timeline: 2, From: wal.SegmentSizeMin.Start(end.At)})
	prefix := upTo(t, next, lsn(t, r.LSN(t)))
	if n := min(int(wal.SegmentSizeMin.Offset(end.At)), len(got)); n > 0 {
		same(t, "prefix", prefix[wal.SegmentSizeMin.Offset(end.At)-int64(n):wal.SegmentSizeMin.Offset(end.At)], got[len(got)-n:])
	}
	_, err = connect(t, config(r)).Start(t.Context(), replication.StartOptions{Timeline: 1, From: end.At + 8})
	refused(t, "beyond the fork", err, replication.ErrTimeline, tidegate.Permanent)
	_, err = connect(t, config(r)).Start(t.Context(), replication.StartOptions{Timeline: 7, From: end.At})
	refused(t, "unknown timeline", err, replication.ErrTimeline, tidegate.Permanent)
}
