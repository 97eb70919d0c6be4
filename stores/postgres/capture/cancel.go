package capture

import (
	"fmt"
	"slices"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// commitsMax bounds how many commits are remembered. Those that wait are fewer than
// a server has connections; the others are of sessions that do not wait.
const commitsMax = 4096

// commit is a commit record of the log.
type commit struct {
	xid uint32
	end wal.LSN
}

// cancels finds the commits that waited for our answer and went without it: the
// wait was cancelled by somebody, or the session ended. A wait is seen when it
// lasts from one look at the server to the next. Guarded by the capture's mu.
type cancels struct {
	ring       []commit // the newest; the oldest is at next once it is full
	next       int
	forgotten  wal.LSN // end of the newest commit that was overwritten
	activation uint64  // that waiting is of
	waiting    []uint32
	count      uint64
	last       wal.LSN // end of the newest one found
}

// note remembers a commit that was received.
func (n *cancels) note(c commit) {
	if len(n.ring) < commitsMax {
		n.ring = append(n.ring, c)
		return
	}
	n.forgotten = n.ring[n.next].end
	n.ring[n.next] = c
	n.next = (n.next + 1) % commitsMax
}

// compare takes in who waits now, and returns where the newest commit ends that
// waited at the last look, waits no longer, and lies beyond answered; 0 for none.
// Of a transaction whose commit is forgotten it takes the worst, which is head.
func (n *cancels) compare(activation uint64, waiting []uint32, answered, head wal.LSN) (newest wal.LSN, found uint64) {
	was := n.waiting
	if n.activation != activation {
		was = nil // who waited before may have been answered, or outlived the server
	}
	n.activation, n.waiting = activation, waiting
	for _, xid := range was {
		if slices.Contains(waiting, xid) {
			continue
		}
		end := wal.LSN(0)
		if i := slices.IndexFunc(n.ring, func(c commit) bool { return c.xid == xid }); i >= 0 {
			end = n.ring[i].end
		} else if n.forgotten > answered {
			end = head
		}
		if end > answered {
			newest = max(newest, end)
			found++
		}
	}
	n.count += found
	n.last = max(n.last, newest)
	return newest, found
}

// finding tells of commits that the other site, which has all before d, may lack.
func (n *cancels) finding(d wal.LSN) (local.Finding, bool) {
	if n.count == 0 || n.last <= d {
		return local.Finding{}, false
	}
	return local.Finding{
		Name: foundCancelled, Severity: local.SeverityWarning, Class: tidegate.Permanent,
		Text: fmt.Sprintf("%d commits went without the other site since the agent started, because their waits were cancelled; it has yet to reach %s", n.count, n.last),
		Hint: "they count as released; see in the server's log who cancels (canceling wait for synchronous replication), and do not set timeouts below what the gate may hold back",
	}, true
}

// cancelled compares who waits now with who did.
func (c *Capture) cancelled(waiting []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate.Ceiling == nil || c.link == nil {
		return
	}
	if c.leak.why != "" || !c.promises() {
		waiting = nil // nobody need wait, and all of it counts as released
	}
	newest, found := c.cancels.compare(c.gate.Activation, waiting, max(c.link.told.Write, c.durable()), wal.LSN(c.gate.Head.Position))
	if found == 0 {
		return
	}
	c.log.Warn("commits went without the other site: their waits were cancelled", "commits", found, "newest", newest.String())
	c.gate.Ceiling.Escape(c.clock.Boot(), newest.Position())
	c.gate.Step(c.clock.Boot())
	signal(c.report)
}
