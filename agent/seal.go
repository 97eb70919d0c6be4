package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/stores"
)

// sealer is the state of the sealing goroutine: capture, seal, send. There is
// no timer in its way: while a send is in flight the source goes on, and the
// next batch is whatever has accumulated; on an idle link one record goes out
// alone at once.
type sealer struct {
	w      *writer
	codec  *batch.Sealer
	cursor stores.Cursor
	unit   stores.Unit   // read and not sealed yet; empty when it has no payload
	paid   bool          // the rate has let unit through
	later  time.Duration // when the rate may let it; 0 while nothing is held back
	stream tidegate.StreamID
	max    int

	// lineage is that of the log captured so far; the library's may have gone on.
	lineage tidegate.Lineage

	// The operator's rates, of all streams together.
	shipRate, captureRate *rates.Limiter
}

// seal runs until the term ends. A source that cannot be read is tried again:
// the ring must not be lost, and what was sealed goes on being shipped.
func (w *writer) seal(ctx context.Context) error {
	select {
	case <-w.proven:
	case <-ctx.Done():
		return ctx.Err()
	}
	codec, err := batch.ParseCodec(w.s.cfg.Codec)
	if err != nil {
		return err
	}
	w.mu.Lock()
	z := &sealer{
		w: w, codec: batch.NewSealer(codec), stream: w.core.Record().Stream,
		max:      int(w.s.agent.cfg.Limits.BatchBytesMax),
		shipRate: w.s.agent.rates.Limiter(rates.Ship), captureRate: w.s.agent.rates.Limiter(rates.Capture),
	}
	w.mu.Unlock()
	if err := z.open(ctx); err != nil {
		return err
	}
	defer func() { _ = z.cursor.Close() }() // only read from; the last one that was opened
	backoff := retry.Policy{First: 20 * time.Millisecond, Max: time.Second}.Backoff()
	held := time.NewTimer(time.Hour)
	defer held.Stop()
	failed := false
	for {
		if err := w.over(); err != nil {
			return err
		}
		z.later = 0
		busy, err := z.step(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			failed = true
			w.s.setErr(err)
			w.s.miss(err)
			w.log.Error("capture failed", "err", err)
			if backoff.Wait(ctx) != nil {
				return ctx.Err()
			}
			continue
		case busy:
			continue
		}
		if failed {
			failed = false
			w.s.miss(nil)
		}
		backoff.Reset()
		var again <-chan time.Time
		if z.later > 0 {
			held.Reset(z.later)
			again = held.C
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.kick:
		case <-again:
		}
	}
}

// open makes the cursor and opens the term's log: with a lineage batch where
// the source's history begins or has forked, else with a heartbeat, so that a
// new writer's first acknowledgement does not wait for the service.
func (z *sealer) open(ctx context.Context) error {
	backoff := retry.Policy{First: 20 * time.Millisecond, Max: time.Second}.Backoff()
	for {
		err := z.seek(ctx, z.w.start)
		if err == nil {
			break
		}
		z.w.s.setErr(err)
		z.w.s.miss(err)
		if backoff.Wait(ctx) != nil {
			return ctx.Err()
		}
	}
	z.w.s.miss(nil)
	lineage := z.w.s.lineageNow()
	if z.w.begins() && lineage != "" {
		z.lineage = lineage
		return z.announce(lineage, "")
	}
	z.lineage = lineageBefore(lineage, z.w.start)
	if next, at, ok := nextFork(z.lineage, lineage); ok && at == z.w.start {
		return z.announce(next, z.lineage)
	}
	return z.control(batch.KindHeartbeat, nil)
}

// announce seals a lineage batch at the captured position: from here on the log
// is of lineage next. If the ring has no room nothing has happened.
func (z *sealer) announce(next, previous tidegate.Lineage) error {
	payload, err := batch.Lineage{Lineage: next, Previous: previous}.Append(nil)
	if err != nil {
		return err
	}
	before := z.w.end()
	if err := z.control(batch.KindLineage, payload); err != nil {
		return err
	}
	if z.w.end().Seq > before.Seq {
		z.lineage = next
	}
	return nil
}

// fork brings the captured log onto the lineage that the library says it is on
// now, where it goes another way: captured is the end of what is sealed, and
// nothing beyond limit may be sealed before the fork is.
func (z *sealer) fork(ctx context.Context, captured, head tidegate.Position) (limit tidegate.Position, sealed bool, err error) {
	now := z.w.s.lineageNow()
	if now == z.lineage || now == "" {
		return head, false, nil
	}
	if z.lineage == "" {
		z.lineage = now // what the log was before nobody said
		return head, false, nil
	}
	next, at, ok := nextFork(z.lineage, now)
	if !ok {
		return 0, false, fmt.Errorf("capture: the log is of lineage %s now, which does not go on from %s: %w", now, z.lineage, tidegate.ErrDiverged)
	}
	if captured > at {
		return 0, false, fmt.Errorf("capture: the log went another way at %s, it is sealed up to %s: %w", at, captured, tidegate.ErrDiverged)
	}
	if z.unit.Next > at {
		// Read before the library knew of the fork: it is of the way not taken.
		z.unit = stores.Unit{}
		if err := z.seek(ctx, captured); err != nil {
			return 0, false, err
		}
	}
	if captured < at {
		return min(head, at), false, nil
	}
	before := z.lineage
	if err := z.announce(next, before); err != nil {
		return 0, false, err
	}
	return captured, z.lineage != before, nil
}

// seek opens the cursor at from, in place of the one there is.
func (z *sealer) seek(ctx context.Context, from tidegate.Position) error {
	c, err := z.w.s.source.Follow(ctx, from)
	if err != nil {
		return err
	}
	if z.cursor != nil {
		_ = z.cursor.Close() // only read from
	}
	z.cursor = c
	return nil
}

// begins reports whether the term's first batch is the stream's, or a generation's.
func (w *writer) begins() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ring.last().seq == 0 || w.entry > 0
}

// step does one piece of work: send what is sealed, else seal more. false
// means that there is nothing to do until somebody wakes us.
func (z *sealer) step(ctx context.Context) (busy bool, err error) {
	if z.send(ctx) {
		return true, nil
	}
	w := z.w
	w.mu.Lock()
	head, captured, paused := w.meter.lib.L, w.ring.last().next, w.paused
	over := w.hand.sealed || w.phase == fence.StateDemoted // the last batch of the epoch is sealed
	due := w.hbDue && !over
	w.mu.Unlock()
	if !paused && !over && (head.Position > captured || len(z.unit.Payload) > 0) {
		limit, sealed, err := z.fork(ctx, captured, head.Position)
		if sealed || err != nil {
			return sealed, err
		}
		sealed, err = z.capture(head, limit)
		if sealed || err != nil {
			return sealed, err
		}
	}
	if sealed, err := z.handOver(); sealed || err != nil {
		return sealed, err
	}
	if due {
		return true, z.control(batch.KindHeartbeat, nil)
	}
	return false, nil
}

// send ships the next batch that the relay does not have. It may wait for the
// relay's credit; meanwhile the source accumulates the next batch.
func (z *sealer) send(ctx context.Context) (busy bool) {
	w := z.w
	w.mu.Lock()
	l := w.link
	if l == nil || l.next == 0 {
		w.mu.Unlock()
		return false
	}
	last := w.ring.last().seq
	if l.next > last {
		w.mu.Unlock()
		return z.flush(l)
	}
	it, ok := w.ring.get(l.next)
	if !ok {
		// What this relay lacks is durable elsewhere and gone from the ring: it
		// will be fed from another node's log. The receiver picks another one.
		w.mu.Unlock()
		_ = l.conn.Close()
		w.dropLink(l)
		return true
	}
	sealed := it.sealed
	w.mu.Unlock()
	// Only this goroutine writes the arena: what it waits to send stays as it is.
	if z.shipRate.Wait(ctx, len(sealed)) != nil {
		return true
	}
	w.mu.Lock()
	if w.link != l {
		w.mu.Unlock()
		return true
	}
	seq := l.next
	l.next++
	more := l.next <= last
	w.mu.Unlock()
	l.put = true
	if err := l.conn.Send(ctx, sealed); err != nil {
		// The receiver learns the reason and dials on; the batch stays in the ring.
		_ = l.conn.Close()
		w.dropLink(l)
		return true
	}
	w.taken(l, seq)
	w.s.meters.shippedBytes.Add(float64(len(sealed)))
	if !more {
		z.flush(l)
	}
	return true
}

// taken dates what a session has taken to send.
func (w *writer) taken(l *link, seq tidegate.Seq) {
	now := w.s.agent.clk.Boot()
	w.mu.Lock()
	defer w.mu.Unlock()
	l.through = seq
	if it, ok := w.ring.get(seq); ok { // W nodes may have stored it already
		it.sent = now
	}
}

// flush starts writing what was put; false, because it leaves nothing to do.
func (z *sealer) flush(l *link) bool {
	if l.put {
		l.put = false
		_ = l.conn.Flush() // the receiver learns of a lost session
	}
	return false
}

// dropLink forgets a session that failed while sending; keepLink, which
// receives from it, dials the next one.
func (w *writer) dropLink(l *link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.link == l {
		w.link = nil
	}
}

// capture reads and seals one batch up to limit; false when there is nothing, or
// the ring has no room: the source retains until D moves.
func (z *sealer) capture(head local.Count, limit tidegate.Position) (sealed bool, err error) {
	need := z.max
	if len(z.unit.Payload) > 0 {
		need = len(z.unit.Payload)
	}
	room := z.reserve(need)
	if room == nil {
		return false, nil
	}
	if len(z.unit.Payload) == 0 {
		if z.unit, err = z.cursor.Read(limit, z.max); err != nil || len(z.unit.Payload) == 0 {
			return false, err
		}
		z.paid = false
		if z.codec.Room(len(z.unit.Payload)) > cap(room) {
			if room = z.reserve(len(z.unit.Payload)); room == nil {
				return false, nil
			}
		}
	}
	if !z.paid {
		// Not waited for here: what is sealed already has to go on being shipped.
		if z.paid, z.later = z.captureRate.Take(len(z.unit.Payload)); !z.paid {
			return false, nil
		}
	}
	u := z.unit
	h := batch.Header{
		Kind: batch.KindData, First: u.First, Next: u.Next, Records: u.Records,
		OldestTime: u.Oldest, NewestTime: u.Newest, Head: max(head.Position, u.Next),
	}
	if u.Records == 0 {
		h.OldestTime = z.w.s.agent.clk.Wall().UnixNano()
		h.NewestTime = h.OldestTime
	}
	if err := z.add(room, h, u.Payload); err != nil {
		return false, err
	}
	z.unit = stores.Unit{}
	if u.Next == head.Position {
		z.w.mu.Lock()
		z.w.meter.align(head, z.w.ring.last())
		z.w.mu.Unlock()
	}
	return true, nil
}

func (z *sealer) reserve(raw int) []byte {
	z.w.mu.Lock()
	defer z.w.mu.Unlock()
	room := z.w.ring.reserve(z.codec.Room(raw))
	z.w.starved = room == nil
	return room
}

// control seals a batch without records at the captured position.
func (z *sealer) control(kind batch.Kind, payload []byte) error {
	room := z.reserve(len(payload))
	if room == nil {
		// A full ring is anything but quiet: what is in it will say more.
		z.w.mu.Lock()
		z.w.hbDue = false
		z.w.mu.Unlock()
		return nil
	}
	now := z.w.s.agent.clk.Wall().UnixNano()
	return z.add(room, batch.Header{Kind: kind, OldestTime: now, NewestTime: now}, payload)
}

// add seals into room and hands the batch to ring and core.
func (z *sealer) add(room []byte, h batch.Header, payload []byte) error {
	w := z.w
	began := w.s.agent.clk.Boot()
	w.mu.Lock()
	prev := w.ring.last()
	h.Stream, h.Epoch, h.Seq, h.Generation = z.stream, w.epoch, prev.seq+1, w.gen
	if h.Kind != batch.KindData {
		h.First, h.Next, h.Head = prev.next, prev.next, max(w.meter.head(), prev.next)
	}
	w.mu.Unlock()
	if h.First != prev.next {
		return fmt.Errorf("capture: unit begins at %s, the log ends at %s: %w", h.First, prev.next, tidegate.ErrGap)
	}
	sealed, out, err := z.codec.Seal(room, h, prev.chain, payload)
	if err != nil {
		return err
	}
	now := w.s.agent.clk.Boot()
	f := facts{
		seq: out.Seq, next: out.Next, chain: out.Chain, epoch: out.Epoch,
		records: prev.records + uint64(out.Records), bytes: prev.bytes + uint64(out.RawLen),
	}
	if out.Kind != batch.KindData {
		f.bytes = prev.bytes
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.core.Sealed(out.Pos()); err != nil {
		return err
	}
	w.ring.add(sealed, f, now)
	w.sealedAt, w.hbDue = now, false
	w.meter.captured(f)
	m := w.s.meters
	m.sealSeconds.Add(time.Duration(now - began).Seconds())
	m.batches.Inc()
	m.records.Add(float64(out.Records))
	m.rawBytes.Add(float64(out.RawLen))
	return nil
}
