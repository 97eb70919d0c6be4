package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/replication"
	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// watchEvery is how often the server is asked whether it waits for us: for so long
// at most a leak is not seen.
const watchEvery = time.Second

// leak is how commits get past the answers; the zero value is none.
type leak struct {
	why  string
	hint string
}

// leakOfReplica stands while log is captured from a server that follows.
var leakOfReplica = leak{
	"the log is captured from a replica: what its primary confirms waits for nobody here",
	"set the stream open, or capture from the primary",
}

// notAsked stands until the server has been asked: what is not known is counted as
// if it were so.
var notAsked = leak{why: "the server was not asked yet"}

// err is the leak as a finding.
func (l leak) err() error {
	if l.why == "" || l == notAsked {
		return nil
	}
	return &tidegate.Error{Op: "hold commits back", Class: tidegate.Misuse, Hint: l.hint, Err: errors.New(l.why)}
}

// keepWatch sees whether the server waits for the answers that it gets, until ctx
// ends. While it does not, or cannot be asked, everything counts as released.
func (c *Capture) keepWatch(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var sql *replication.SQL
	defer func() {
		c.proof.end()
		if sql != nil {
			_ = sql.Close() // only asked
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-c.ask:
		}
		if !c.watched() {
			continue
		}
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := c.watch(one, &sql)
		cancel()
		if err == nil {
			err = c.keepNames(ctx, sql)
		}
		if err != nil && sql != nil {
			_ = sql.Close() // it failed
			sql = nil
		}
		if err != nil && ctx.Err() == nil {
			c.leaks(leak{
				"it cannot be seen whether the server waits for the other site: " + err.Error(),
				"the role needs LOGIN, pg_monitor, and EXECUTE on pg_logical_emit_message: GRANT pg_monitor TO <role>",
			})
		}
	}
}

// watched reports whether there is an activity to watch, or one to make ready for.
func (c *Capture) watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gate.Ceiling != nil && c.link != nil || c.spares()
}

func (c *Capture) watch(ctx context.Context, sql **replication.SQL) (err error) {
	if *sql == nil {
		c.mu.Lock()
		server := c.cfg.server(c.cfg.Name + "_watch")
		c.mu.Unlock()
		if *sql, err = replication.ConnectSQL(ctx, server); err != nil {
			return err
		}
	}
	set, err := (*sql).Settings(ctx, namesSetting, "synchronous_commit")
	if err != nil {
		return err
	}
	c.naming.seen = set[namesSetting]
	senders, err := (*sql).Senders(ctx)
	if err != nil {
		return err
	}
	l := leakOfReplica
	if !c.captures() {
		l = leakOf(c.cfg.Name, set, senders)
	}
	if l.why != "" {
		c.proof.link = nil // it is to be seen anew
	} else if l, err = c.prove(ctx, *sql, set[namesSetting]); err != nil {
		return err
	}
	c.leaks(l)
	waiting, err := (*sql).Waiting(ctx)
	if err != nil {
		return err
	}
	c.cancelled(waiting)
	return nil
}

// promises reports whether the stream's gate is to hold commits back now; mu is
// held.
func (c *Capture) promises() bool {
	g := &c.gate
	return g.Ceiling != nil && !g.Out.Unbounded && g.Terms.Mode != "" && g.Terms.Mode != tidegate.ModeOpen
}

// leakOf judges by what the server says of itself whether its commits wait for
// the receiver called name, at synchronous_commit as the server has it by default.
func leakOf(name string, set map[string]string, senders []replication.Sender) leak {
	const naming = "ALTER SYSTEM SET synchronous_standby_names = '%s', and reload"
	if level := set["synchronous_commit"]; level == "off" || level == "local" {
		return leak{"synchronous_commit is " + level + ": commits do not wait for the other site", "set synchronous_commit to on, or to remote_write for a bounded stream"}
	}
	names := set[namesSetting]
	if names == "" {
		return leak{"synchronous_standby_names is empty: commits do not wait for the other site", fmt.Sprintf(naming, name)}
	}
	others, ours := 0, ""
	for _, s := range senders {
		switch {
		case s.ApplicationName == name && s.State == "streaming":
			ours = s.Sync
		case s.Sync == "sync", s.Sync == "quorum":
			others++
		}
	}
	alone := fmt.Sprintf("synchronous_standby_names is %q: commits wait for another standby, which may confirm them without the other site", names)
	switch {
	case ours == "sync":
		return leak{}
	case ours == "quorum" && others == 0:
		return leak{}
	case others > 0:
		return leak{alone, fmt.Sprintf(naming, name)}
	}
	return leak{} // named, but for nobody who is there: commits wait for ever
}

// leaks notes what the watch has seen.
func (c *Capture) leaks(l leak) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gate.Ceiling == nil || l == c.leak {
		return
	}
	if l.why != "" && c.leak.why == "" || l.why == "" && c.leak.err() != nil {
		c.log.Warn("whether commits wait has changed", "leak", l.why, "hint", l.hint)
	}
	c.leak = l
	c.escape(escape{})
	signal(c.report)
}

// escape is the oldest commit of what may have been let go without our word; the
// zero value is none.
type escape struct {
	end  wal.LSN
	time int64 // of the commit, unix ns by the server's clock
}

// escape counts what the server let go without our word: from when it was committed
// on, which may be long before it came here. A clock of the server's that is ahead
// makes nothing younger than its arrival; mu is held.
func (c *Capture) escape(oldest escape) {
	if c.leak.why == "" || c.gate.Ceiling == nil {
		return
	}
	now := c.clock.Boot()
	if age := c.clock.Wall().UnixNano() - oldest.time; oldest.end != 0 && age > 0 {
		c.gate.Ceiling.Escape(max(now-tidegate.Instant(age), 1), oldest.end.Position())
	}
	c.gate.Ceiling.Escape(now, c.gate.Head.Position)
}

// trouble returns what to tell people: what keeps the connector from its work, or
// else names that cannot be set, or else a leak where the stream promises that there
// is none; mu is held.
func (c *Capture) trouble() error {
	if c.finding != nil {
		return c.finding
	}
	if c.naming.err != nil {
		return c.naming.err
	}
	if !c.promises() {
		return nil
	}
	return c.leak.err()
}
