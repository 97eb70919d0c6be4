package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/journal"
)

// feed feeds one stream, in as many sessions as the service makes of it. It belongs to
// one goroutine.
type feed struct {
	r *Replay
	p *Plan

	fed      tidegate.Position // the service has everything before it, or is being given it
	lastData tidegate.Position // end of the last record before it that a service sees
	lineage  tidegate.Lineage  // of the log there
	applied  tidegate.Position // by the service, as it last said in a session that ended
	arrived  bool              // at the source's pace
	marks    []Mark            // ahead
	out      Outcome
	ended    bool

	// Of a replay that stays.
	orders   chan order
	fedAll   chan Outcome  // one value for each plan that was fed
	told     bool          // it was put there
	promoted chan struct{} // closed when the service says that it is active
}

// attemptsMax is how many sessions in a row may bring nothing: a service that ends whenever
// it starts is not worth waiting for.
const attemptsMax = 3

// run serves the stream's socket until the service has been fed everything, or does not
// come back.
func (f *feed) run(ctx context.Context) error {
	defer f.arrive()
	info := f.p.Stream.Info
	path := local.SocketPath(f.r.cfg.RunDir, local.DaemonStandby, info.Service, info.Name)
	ln, err := local.Listen(path)
	if err != nil {
		return &tidegate.Error{
			Op: "replay", Subject: f.label(), Class: tidegate.ClassOf(err), Err: err,
			Hint: "--run names a scratch folder of its own, with a path of less than 80 bytes",
		}
	}
	defer func() { _ = ln.Close() }() // accept may have
	for attempts := 0; ; {
		s, err := f.accept(ctx, ln)
		if err != nil {
			return err
		}
		began := f.r.pace.clk.Boot()
		err = s.run(ctx)
		f.out.Took += time.Duration(f.r.pace.clk.Boot() - began)
		var gone goneError
		switch {
		case errors.Is(err, errDiffers), err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.As(err, &gone):
			return f.failed(err)
		case s.seeded || s.progress.Applied > f.applied:
			attempts = 0
		default:
			attempts++
		}
		f.applied = max(f.applied, s.progress.Applied)
		if attempts == attemptsMax {
			return f.away(fmt.Errorf("it ended %d sessions in a row with what is at position %s: %w", attempts, f.applied, gone.error))
		}
	}
}

func (f *feed) label() string {
	return fmt.Sprintf("%s/%s", f.p.Stream.Info.Service, f.p.Stream.Info.Name)
}

func (f *feed) failed(err error) error {
	return &tidegate.Error{Op: "replay", Subject: f.label(), Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
}

// away says that the service is not there.
func (f *feed) away(err error) error {
	return &tidegate.Error{
		Op: "replay", Subject: f.label(), Class: tidegate.Transient, Err: err,
		Hint: "start the service as one that follows, with its run folder " + f.r.cfg.RunDir + "; what ended it is in its own log",
	}
}

// arrive tells the others that this stream is at the source's pace, or never will be.
func (f *feed) arrive() {
	if !f.arrived {
		f.arrived = true
		f.r.pace.arrive()
	}
}

// accept waits for the service.
func (f *feed) accept(ctx context.Context, ln *local.Listener) (*session, error) {
	f.r.waiting.Add(1)
	defer f.r.waiting.Add(-1)
	wait, cancel := context.WithTimeout(ctx, f.r.cfg.Wait)
	defer cancel()
	stop := context.AfterFunc(wait, func() { _ = ln.Close() }) // Accept reports it; nothing is accepted any more
	defer stop()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case wait.Err() != nil:
			err = f.away(fmt.Errorf("the service has not connected to %s for %s", ln.Addr(), f.r.cfg.Wait))
		}
		if err != nil {
			if conn != nil {
				_ = conn.Close() // nothing was said on it
			}
			return nil, err
		}
		var refused error
		hello, err := conn.Serve(wait, local.Welcome{Daemon: local.DaemonStandby, Node: "replay"}, func(h local.Hello) error {
			refused = f.check(h)
			return refused
		})
		if refused != nil {
			return nil, f.failed(refused)
		}
		if err == nil {
			return &session{f: f, conn: conn, hello: hello, news: make(chan struct{}, 1), over: make(chan struct{}), asks: make(chan local.SnapshotRead)}, nil
		}
	}
}

// check refuses a service that is not one to be fed this stream.
func (f *feed) check(h local.Hello) error {
	info := f.p.Stream.Info
	refuse := func(err error) error {
		return &tidegate.Error{
			Op: "feed service in", Subject: h.Dir, Class: tidegate.Refused, Err: err,
			Hint: "start the service on an empty data folder, or on one that an earlier replay of this archive has left",
		}
	}
	if h.Service != info.Service || h.Stream != info.Name {
		return refuse(fmt.Errorf("it is of %s/%s: %w", h.Service, h.Stream, tidegate.ErrConflict))
	}
	if err := h.CheckKind(local.KindJournal); err != nil {
		return err
	}
	if h.End == 0 {
		return nil // what its journal is, it learns
	}
	if h.End > f.p.End.Next {
		return refuse(fmt.Errorf("its journal ends at %s, behind the range's end at %s", h.End, f.p.End.Next))
	}
	have, err := journal.LineageID(h.Lineage)
	if err != nil {
		return err
	}
	want, err := journal.LineageID(f.p.Origin)
	if err != nil {
		return err
	}
	if have != want {
		return refuse(fmt.Errorf("its journal is of history %s, the archived one of %s: %w", have, want, tidegate.ErrDiverged))
	}
	return nil
}

// outcome is what came of it.
func (f *feed) outcome() Outcome {
	out := f.out
	out.Position = f.fed
	if out.Verdict != "" {
		return out
	}
	out.Verdict = Unknown
	if !f.ended {
		out.Why = "it did not come to its end"
		return out
	}
	last := len(out.Checked) - 1
	switch {
	case out.Digest.IsZero():
		out.Why = "the service gives no digest of its state"
	case last >= 0 && out.Checked[last].Position >= f.lastData:
		out.Verdict = Same
	case last >= 0:
		out.Why = fmt.Sprintf("no digest is on record at %s; the last that is, at %s, was the same", f.fed, out.Checked[last].Position)
	default:
		out.Why = fmt.Sprintf("no digest is on record at %s", f.fed)
	}
	return out
}

// locate finds the batch with the last record before a position, where a service's
// journal ends, and the end of the last record there that the service saw.
func (p *Plan) locate(ctx context.Context, end tidegate.Position) (from tidegate.Seq, lastData tidegate.Position, err error) {
	if end == p.First {
		return p.Begin.Seq, end, nil
	}
	at, err := p.Stream.AtPosition(ctx, p.Begin.Generation, end)
	for err == nil && at.First >= end && at.Seq > p.Begin.Seq {
		at, err = p.Stream.AtSeq(ctx, at.Seq-1)
	}
	if err != nil {
		return 0, 0, err
	}
	diverged := fmt.Errorf("the service's journal ends at %s, where no record of the archived one ends: %w", end, tidegate.ErrDiverged)
	for b, err := range p.Stream.Batches(ctx, at.Seq) {
		if err != nil {
			return 0, 0, err
		}
		if b.Kind != batch.KindData {
			break
		}
		var opener batch.Opener
		h, payload, err := opener.Open(nil, b.Sealed)
		if err != nil {
			return 0, 0, p.Stream.InSegment(b.Seq, err)
		}
		found := false
		err = journal.Scan(payload, h.First, func(r journal.Record) error {
			if r.Next <= end && r.Kind == journal.KindData {
				lastData = r.Next
			}
			found = found || r.Next == end
			return nil
		})
		if err != nil || found {
			return at.Seq, lastData, err
		}
		break
	}
	return 0, 0, diverged
}

// sleep waits, and ends early with ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
