package capture

import (
	"context"
	"errors"

	"github.com/tidegate/tidegate/stores"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

var _ stores.Spare = (*Capture)(nil)

// spareHeldMin is how much log beyond wal_keep_size a standby's slot may hold before
// drop_slot_below takes it: a standby does not say what it would keep without it.
const spareHeldMin = 64 << 20

// errAgain ends a stream that is to begin anew, because it needs a slot or no longer does.
var errAgain = errors.New("the slot is another matter now")

// Stand implements [stores.Spare].
func (c *Capture) Stand(st stores.Standing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st == c.standing {
		return
	}
	news := st.Holds != c.standing.Holds || st.Part != c.standing.Part
	c.standing = st
	signal(c.answer)
	if !news {
		return
	}
	signal(c.ask)
	signal(c.inspect)
	if l := c.link; l != nil && c.stale(l) {
		l.again = true
		_ = l.stream.Close() // the receiver begins anew
	}
}

// stale reports whether a link goes without the slot that it needs, or by one that
// is not wanted; mu is held.
func (c *Capture) stale(l *link) bool { return !l.primary && l.slotted != c.reserves(l.slotted) }

// captures reports whether log is captured from a server that follows.
func (c *Capture) captures() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && !c.link.primary
}

// unreserve gives the slot of a server that follows up, because its disk comes first:
// nothing is lost by that before the server is promoted. None is made again before
// the process ends.
func (c *Capture) unreserve(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unreserved != nil {
		return // it is on its way
	}
	c.unreserved = errors.New(why)
	c.log.Error("SLOT DROPPED of a server that follows", "slot", c.cfg.Slot, "why", why)
	if l := c.link; l != nil && c.stale(l) {
		l.again = true
		_ = l.stream.Close() // the receiver drops the slot, and begins anew
	}
}

// Whole implements [stores.Spare]: a primary's log is its own.
func (c *Capture) Whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link != nil && c.link.primary
}

// reserves reports whether a server that follows is to keep log by our slot, which
// it does now or not: one that may be promoted must have what the other site lacks,
// and so must one that is captured. mu is held.
func (c *Capture) reserves(now bool) bool {
	switch {
	case c.unreserved != nil, c.wish == wishLeave:
		return false
	case c.wish == wishUnknown:
		return now
	case c.cfg.Replica, c.standing.Part == stores.PartNext:
		return true
	case c.standing.Part == stores.PartAway:
		return false
	}
	return now
}

// reserve makes or drops the slot of a server that follows, and returns whether it
// is to be used. Where nobody says what is durable it would keep log for ever.
func (c *Capture) reserve(ctx context.Context, conn *replication.Conn, slot replication.Slot) (replication.Slot, bool, error) {
	c.mu.Lock()
	use := c.reserves(slot.Exists)
	c.mu.Unlock()
	if slot.Exists && (!use || errors.Is(slot.Check(), replication.ErrSlotLost)) {
		c.log.Info("dropping the replication slot of a server that follows", "slot", c.cfg.Slot, "lost", use)
		if err := conn.DropSlot(ctx, c.cfg.Slot); err != nil {
			return slot, false, err
		}
		slot.Exists = false
	}
	if !use && c.cfg.Replica {
		return slot, false, c.mayMake()
	}
	if !use {
		return slot, false, nil // what is only looked at needs none
	}
	if !slot.Exists {
		c.log.Info("making the replication slot of a server that follows", "slot", c.cfg.Slot)
		var err error
		if slot, err = conn.CreateSlot(ctx, c.cfg.Slot, false); err != nil {
			return slot, false, err
		}
	}
	return slot, true, slot.Check()
}

// beginOf returns where the log of a stream that is captured from a standby begins:
// no later than a base taken there, which begins where the standby would recover
// from. That much log it has.
func (c *Capture) beginOf(ctx context.Context, now place, slot replication.Slot) (wal.LSN, error) {
	sql, err := replication.ConnectSQL(ctx, c.cfg.server(c.cfg.Name+"_watch"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = sql.Close() }() // only asked
	control, err := sql.Control(ctx)
	if err != nil {
		return 0, err
	}
	return now.segment.Start(min(slot.Restart, control.Redo)), nil
}

// reserved is what a server that follows is told: its slot keeps the log from flush
// on. mu is held.
func (c *Capture) reserved(st replication.Status) replication.Status {
	l := c.link
	if !l.slotted {
		return st
	}
	durable := wal.LSN(c.standing.Durable)
	if d := c.durable(); c.cfg.Replica && d > 0 {
		durable = d
	}
	if durable == 0 && c.cfg.Replica {
		durable = c.place.begin // from where a base is, and its log
	}
	st.Flush = max(st.Flush, min(durable, l.confirmed))
	st.Write = max(st.Write, st.Flush)
	return st
}

// spares reports whether names are to be made ready on a server that may be
// promoted; mu is held.
func (c *Capture) spares() bool {
	return c.link != nil && !c.link.primary && c.naming.local && c.standing.Part == stores.PartNext
}
