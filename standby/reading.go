package standby

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/shipper"
)

// reading is a session that reads the log. A cut of the log ends it.
type reading struct{ cancel context.CancelFunc }

var errCutUnder = &tidegate.Error{
	Op: "read log", Class: tidegate.Transient,
	Err: errors.New("the log is being cut; attach again"),
}

// serveReading accepts a reading session and runs send beside the receiving
// that every session needs. tail is what the session is told of the log's end.
func (s *stream) serveReading(ctx context.Context, conn *shipper.ServerConn, tail []batch.Header, send func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &reading{cancel: cancel}
	begin, known := s.begin()
	if !known {
		return errCutUnder // it is being trimmed
	}
	s.mu.Lock()
	s.readers[r] = struct{}{}
	attached := shipper.Attached{
		Adopted: s.core.Adopted(), Begin: begin,
		Node: s.n.cfg.Node, Incarnation: s.core.Meta().Incarnation, Promise: s.core.Promise(),
		Durable: s.core.DurablePos(), Received: s.log.End(), Commit: s.core.KnownCommit(), Tail: tail,
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.readers, r)
		s.mu.Unlock()
	}()
	if err := conn.Accept(attached); err != nil {
		return err
	}
	var sending errgroup.Group
	sending.Go(func() error {
		err := send(ctx)
		if err == nil {
			err = errCutUnder // or the end of the session, which Recv knows better
		}
		conn.Interrupt(err)
		return err
	})
	var err error
	for err == nil {
		_, err = conn.Recv() // nothing is due but time exchanges
	}
	cancel()
	conn.Hasten()
	_ = sending.Wait() // the same end, seen from the other side
	return err
}

// serveReader streams whole batches from a.From on, as far as they are durable,
// and follows.
func (s *stream) serveReader(ctx context.Context, a shipper.Attach, conn *shipper.ServerConn) error {
	if a.From == 0 {
		a.From = s.log.First()
	}
	if err := s.holds(a.From); err != nil {
		return err
	}
	return s.serveReading(ctx, conn, nil, func(ctx context.Context) error {
		b := s.follow()
		defer s.unfollow(b)
		return s.copyTo(ctx, a.From, b, (*stream).durableSeq, conn.Flush, func(_ *batch.Header, sealed []byte) error {
			return conn.SendBatch(sealed)
		})
	})
}

// serveObserver streams the headers of what is received from a.From on (from
// the end if 0), what is committed, and the writer's beacons. An observer is told the
// newest header at once: it does not compare its log with older generations.
func (s *stream) serveObserver(ctx context.Context, a shipper.Attach, conn *shipper.ServerConn) error {
	from := a.From
	if from == 0 {
		from = s.log.End().Seq + 1
	}
	if err := s.holds(from); err != nil {
		return err
	}
	tail, err := s.log.Tail(1)
	if err != nil {
		return fmt.Errorf("read tail: %w", err)
	}
	return s.serveReading(ctx, conn, tail, func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx) // a log that cannot be read ends the session, and its error is told
		g.Go(func() error { return s.spread(ctx, conn, observed) })
		g.Go(func() error {
			b := s.follow()
			defer s.unfollow(b)
			return s.copyTo(ctx, from, b, (*stream).receivedSeq, conn.Flush, func(_ *batch.Header, sealed []byte) error {
				return conn.SendHeader(sealed[:batch.HeaderSize])
			})
		})
		return g.Wait()
	})
}

// holds refuses a place that the log cannot be read from.
func (s *stream) holds(from tidegate.Seq) error {
	first, end := s.log.First(), s.log.End().Seq
	switch {
	case from == 0 || from < first:
		return shipper.Refuse(shipper.CodeGap, "log of node %s begins at %s, asked from %s", s.n.cfg.Node, first, from)
	case from > end+1:
		return shipper.Refuse(shipper.CodeGap, "log of node %s ends at %s, asked from %s", s.n.cfg.Node, end, from)
	}
	return nil
}

func (s *stream) durableSeq() tidegate.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.DurablePos().Seq
}

func (s *stream) receivedSeq() tidegate.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.EndPos().Seq
}

// copyTo hands every batch from the log to give, in order, as far as limit
// says at the time, and calls flush whenever it has caught up. It holds one
// batch at a time, however far behind it is. It ends with ctx, returning nil.
func (s *stream) copyTo(ctx context.Context, from tidegate.Seq, b bell, limit func(*stream) tidegate.Seq, flush func() error,
	give func(*batch.Header, []byte) error,
) error {
	cursor, err := s.log.ReadFrom(from)
	if err != nil {
		return fmt.Errorf("read log from %s: %w", from, err)
	}
	err = s.copyCursor(ctx, cursor, b, limit, flush, give)
	if err := errors.Join(err, cursor.Close()); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (s *stream) copyCursor(ctx context.Context, cursor logCursor, b bell, limit func(*stream) tidegate.Seq, flush func() error,
	give func(*batch.Header, []byte) error,
) error {
	for {
		for upTo := limit(s); cursor.Seq() <= upTo; {
			h, sealed, err := cursor.Next(ctx)
			if err != nil {
				return err
			}
			if err := give(&h, sealed); err != nil {
				return err
			}
		}
		if err := flush(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b:
		}
	}
}

// logCursor is deltalog's cursor.
type logCursor interface {
	Seq() tidegate.Seq
	Next(ctx context.Context) (batch.Header, []byte, error)
}

// spreader is a session to which commit and beacons are passed on.
type spreader interface {
	SendCommit(seq tidegate.Seq) error
	SendBeacon(k shipper.Beacon) error
}

// spread passes on commit and beacons until ctx ends; pass makes of a beacon what
// the other end is to have.
func (s *stream) spread(ctx context.Context, to spreader, pass func(*shipper.Beacon, beaconState, tidegate.Instant)) error {
	b := s.follow()
	defer s.unfollow(b)
	var commit tidegate.Seq
	var beaconAt tidegate.Instant
	for {
		s.mu.Lock()
		newCommit, beacon := s.core.KnownCommit(), s.beacon
		s.mu.Unlock()
		if newCommit > commit {
			commit = newCommit
			if err := to.SendCommit(commit); err != nil {
				return err
			}
		}
		if beacon.known && beacon.at != beaconAt {
			beaconAt = beacon.at
			k := beacon.last
			pass(&k, beacon, s.n.deps.Clock.Boot())
			if err := to.SendBeacon(k); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-b:
		}
	}
}
