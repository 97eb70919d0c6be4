package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Promotion is what came of one.
type Promotion struct {
	Timeline wal.Timeline  // the new one
	Fork     wal.LSN       // where it begins: at the end asked for, or at the end of the padding that this lies in
	History  wal.History   // of the new timeline
	Took     time.Duration // from the request until the server took writes; 0 when it had been promoted before
}

// WaitReplayed waits until everything before end, a record's end, was replayed.
// A server that is no follower has replayed all there was. It waits on while the
// server is restarted, for [Server.Run] may be about to.
func (s *Server) WaitReplayed(ctx context.Context, end wal.LSN) error {
	_, err := s.replayed(ctx, end, true)
	return err
}

// refusedPause is how long a server that does not take connections is left
// alone: each refusal is a process of its own and a line in its log.
const refusedPause = tidegate.Instant(50 * time.Millisecond)

// replayed is WaitReplayed, and returns the state in which it came true. With
// restarts false the server's end is an error.
func (s *Server) replayed(ctx context.Context, end wal.LSN, restarts bool) (State, error) {
	var last State
	var lastErr error
	var next tidegate.Instant
	err := every(ctx, replayEvery, func() (bool, error) {
		if s.clk.Boot() < next {
			return false, nil
		}
		var st State
		if st, lastErr = s.State(ctx); lastErr == nil {
			last = st
			return !st.Recovery || st.Replayed >= end, nil
		}
		next = s.clk.Boot() + refusedPause
		if tidegate.ClassOf(lastErr) != tidegate.Transient {
			return false, lastErr
		}
		if _, wanted := s.wanted(); wanted && restarts {
			return false, nil
		}
		running, err := s.Running()
		if err == nil && !running {
			err = s.ended()
		}
		return false, err
	})
	if err == nil {
		return last, nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("replayed %s, received %s, want %s: %w", last.Replayed, last.Received, end, errors.Join(err, lastErr))
	}
	return last, s.failed("wait for replay of", err)
}

// Pause makes replay stand still and waits until it does; [Server.Resume] lets it
// go on.
func (s *Server) Pause(ctx context.Context) error {
	_, err := s.query(ctx, "select pg_wal_replay_pause()")
	if err == nil {
		err = every(ctx, replayEvery, func() (bool, error) {
			st, err := s.State(ctx)
			return st.Paused, err
		})
	}
	if err != nil {
		return s.failed("pause replay of", err)
	}
	return nil
}

// Resume lets replay go on. It is no error when it does already.
func (s *Server) Resume(ctx context.Context) error {
	if _, err := s.query(ctx, "select pg_wal_replay_resume()"); err != nil {
		return s.failed("resume replay of", err)
	}
	return nil
}

// Checkpoint makes the server write one; on a follower that is a restartpoint, at
// the newest checkpoint that the log has brought. pg_rewind takes a new primary
// for no new one until it has written its first, so whoever promotes asks for one
// when clients are back.
func (s *Server) Checkpoint(ctx context.Context) error {
	if _, err := s.askOnce(ctx, "checkpoint"); err != nil {
		return s.failed("checkpoint", err)
	}
	return nil
}

// Promote makes a follower the primary. The caller has seen to it that the
// upstream serves nothing beyond end, a record's end. Promote waits until all
// before end is replayed, promotes, and waits until the server takes writes; a
// replay that was paused goes on first. It is all or nothing up to the request:
// a server that holds more than end is refused with tidegate.ErrDiverged and stays
// a follower. After the request the new timeline must begin at end, else the error
// wraps tidegate.ErrDiverged and comes with the promotion. Asking again after a
// promotion at end is a success.
//
// On an error in between ask [Server.State]: recovery false says that it took
// place.
func (s *Server) Promote(ctx context.Context, end wal.LSN) (Promotion, error) {
	if err := s.take(ctx); err != nil {
		return Promotion{}, err
	}
	defer s.give()
	st, err := s.State(ctx)
	if err == nil && st.Recovery {
		st, err = s.readyToPromote(ctx, end)
	}
	if err != nil {
		return Promotion{}, err
	}
	begin := s.clk.Boot()
	took := time.Duration(0)
	if st.Recovery {
		if err := s.request(ctx); err != nil {
			return Promotion{}, s.failed("promote", err)
		}
		took = time.Duration(s.clk.Boot() - begin)
	}
	out, err := s.promotion(ctx)
	if err != nil {
		return Promotion{}, s.failed("promote", err)
	}
	out.Took = took
	s.mu.Lock()
	s.purpose, s.promoted = Serve, true
	s.mu.Unlock()
	if out.Fork != end && len(out.History) > 0 {
		// It may have been in padding. The timeline that was left has the bytes.
		if end, err = s.padded(out.History[len(out.History)-1].From, out.Fork, end); err != nil {
			return out, s.failed("promote", err)
		}
	}
	if out.Fork != end {
		return out, &tidegate.Error{
			Op: "promote", Subject: s.cfg.Home, Class: tidegate.Permanent,
			Err: fmt.Errorf("timeline %s begins at %s, want %s: %w", out.Timeline, out.Fork, end, tidegate.ErrDiverged),
		}
	}
	return out, nil
}

// readyToPromote brings a follower to end and checks that nothing forbids the
// promotion.
func (s *Server) readyToPromote(ctx context.Context, end wal.LSN) (State, error) {
	if err := s.ensureSizes(ctx); err != nil {
		return State{}, err
	}
	if err := s.Resume(ctx); err != nil {
		return State{}, err
	}
	st, err := s.replayed(ctx, end, false)
	if err != nil {
		return st, err
	}
	if st.Recovery {
		if end, err = s.padded(st.Timeline, st.Replayed, end); err != nil {
			return st, s.failed("promote", err)
		}
	}
	if held := max(st.Received, st.Replayed); st.Recovery && held > end {
		return st, &tidegate.Error{
			Op: "promote", Subject: s.cfg.Home, Class: tidegate.Permanent, Hint: hintRebuild,
			Err: fmt.Errorf("server holds log up to %s, beyond %s: %w", held, end, tidegate.ErrDiverged),
		}
	}
	return st, nil
}

// padded returns the end of the padding that end lies in, or end itself. Behind
// the record that ends a segment early (pg_switch_wal) lies nothing, and a server
// that has replayed this record is at the end of the segment.
func (s *Server) padded(t wal.Timeline, replayed, end wal.LSN) (wal.LSN, error) {
	c, err := s.Control()
	if err != nil {
		return 0, err
	}
	full := c.SegmentSize.End(end)
	if end == full || replayed < full {
		return end, nil
	}
	p, err := wal.NewParser(wal.Config{SegmentSize: c.SegmentSize, System: c.System})
	if err != nil {
		return 0, err
	}
	p.Begin(c.SegmentSize.Start(end))
	path := s.inData(filepath.Join(walDir, c.SegmentSize.FileName(t, end)))
	err = pushFile(s.fsys, path, 0, c.SegmentSize.Offset(end), func(b []byte) (bool, error) {
		return false, p.Push(p.Next(), b)
	})
	if err != nil {
		return 0, err
	}
	if pad := p.Padding(); p.End() == end && pad != 0 {
		return pad, nil
	}
	return end, nil
}

// ensureSizes restarts a follower whose settings have become too small: with
// them, replay stands still and a promotion is ignored.
func (s *Server) ensureSizes(ctx context.Context) error {
	small, err := s.tooSmall(ctx)
	if err != nil || !small {
		return err
	}
	s.log.Warn("restarting the server with larger settings before its promotion", "home", s.cfg.Home)
	if err := s.stop(ctx, StopFast); err != nil {
		return err
	}
	if err := s.start(ctx, Follow); err != nil {
		return err
	}
	return s.WaitReady(ctx)
}

const sizesSQL = `select setting from pg_settings where name in ('max_connections', 'max_worker_processes',
	'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction') order by name`

// tooSmall compares the running server's settings with what its log asks for.
func (s *Server) tooSmall(ctx context.Context) (bool, error) {
	c, err := s.Control()
	if err != nil {
		return false, err
	}
	rows, err := s.query(ctx, sizesSQL)
	if err != nil {
		return false, s.failed("ask settings of", err)
	}
	want := []int{ // in the order of the names
		c.Required.MaxConnections, c.Required.MaxLocksPerTransaction, c.Required.MaxPreparedTransactions,
		c.Required.MaxWALSenders, c.Required.MaxWorkerProcesses,
	}
	if len(rows) != len(want) {
		return false, s.failed("ask settings of", fmt.Errorf("got %d of %d", len(rows), len(want)))
	}
	for i, row := range rows {
		n, err := strconv.Atoi(string(row[0]))
		if err != nil {
			return false, s.failed("ask settings of", err)
		}
		if n < want[i] {
			return true, nil
		}
	}
	return false, nil
}

// request asks for the promotion and waits until writes are taken. It does not
// let the server wait: pg_promote's own snapshot would be in replay's way, which
// then cancels it. Every question is a connection of its own, for one that began
// in recovery may be ended with it.
func (s *Server) request(ctx context.Context) error {
	s.mu.Lock()
	s.promoted = true
	s.mu.Unlock()
	rows, err := s.askOnce(ctx, "select pg_promote(false)")
	if err != nil {
		return err
	}
	if len(rows) != 1 || string(rows[0][0]) != "t" {
		return fmt.Errorf("pg_promote says %q", rows)
	}
	return every(ctx, promoteEvery, func() (bool, error) {
		rows, err := s.askOnce(ctx, "select pg_is_in_recovery()")
		if err == nil {
			return len(rows) == 1 && string(rows[0][0]) == "f", nil
		}
		running, findErr := s.Running()
		if findErr == nil && !running {
			findErr = s.ended()
		}
		if tidegate.ClassOf(s.failed("ask", err)) != tidegate.Transient {
			findErr = err
		}
		return false, findErr
	})
}

// promotion reads what a primary says of its own beginning.
func (s *Server) promotion(ctx context.Context) (Promotion, error) {
	st, err := s.State(ctx)
	if err != nil {
		return Promotion{}, err
	}
	if st.Recovery {
		return Promotion{}, fmt.Errorf("still in recovery")
	}
	path := s.inData(filepath.Join(walDir, st.Timeline.HistoryFileName()))
	text, err := readFile(s.fsys, path)
	if err != nil {
		return Promotion{}, err
	}
	h, err := wal.ParseHistory(st.Timeline, text)
	if err != nil {
		return Promotion{}, err
	}
	out := Promotion{Timeline: st.Timeline, History: h}
	if len(h) > 0 {
		out.Fork = h[len(h)-1].At
	}
	return out, nil
}
