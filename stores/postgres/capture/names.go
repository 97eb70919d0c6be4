package capture

import (
	"context"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/stores/postgres/names"
	"github.com/tidegate/tidegate/stores/postgres/replication"
)

const (
	// namesSetting is whom a server's commits wait for.
	namesSetting = "synchronous_standby_names"
	// inForceWait is how long names that a driver has set may take to be in force
	// before people are told: Patroni goes through its store, and then its own loop.
	inForceWait  = 5 * time.Second
	inForceEvery = 50 * time.Millisecond
)

// naming is how synchronous_standby_names is set.
type naming struct {
	driver names.Driver // nil: by the operator
	local  bool         // it sets them for one server, also while that one follows
	seen   string       // what the server showed last; the watch's own
	err    error        // why it is not what it should be; under mu
}

// wanted returns what synchronous_standby_names is to be now, if it is ours to set
// and an agent that holds the stream has said what it promises.
func (c *Capture) wanted() (want string, ours bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := &c.gate
	switch {
	case c.wish == wishLeave:
		return "", c.naming.driver != nil
	case c.spares():
		// Whoever promotes this server does not ask us first: it must wait from its first
		// commit on.
		if c.standing.Holds {
			return c.cfg.Name, true
		}
		return "", true
	case c.naming.driver == nil, g.Ceiling == nil, !g.Held, g.Terms.Mode == "":
		return "", false
	case g.Out.Unbounded, g.Terms.Mode == tidegate.ModeOpen && g.Terms.Recorded:
		return "", true
	}
	return c.cfg.Name, true
}

// keepNames has the driver set the names when the server shows others, and sees that
// they are in force. What the driver cannot do is a finding, and tried again; an error
// is of the session with the server. Whether commits wait meanwhile is the watch's to
// say, by what the server shows.
func (c *Capture) keepNames(ctx context.Context, sql *replication.SQL) error {
	want, ours := c.wanted()
	if !ours || want == c.naming.seen {
		c.named(nil)
		return nil
	}
	if err := c.naming.driver.Set(ctx, sql, want); err != nil {
		if ctx.Err() == nil {
			c.named(err)
		}
		return nil
	}
	tick := time.NewTicker(inForceEvery)
	defer tick.Stop()
	for began := c.clock.Boot(); ; {
		set, err := sql.Settings(ctx, namesSetting)
		if err != nil {
			return err
		}
		if set[namesSetting] == want {
			c.log.Info("names set", namesSetting, want)
			c.named(nil)
			signal(c.ask) // whether it waits now
			return nil
		}
		if now, ours := c.wanted(); !ours || now != want {
			signal(c.ask)
			return nil
		}
		if time.Duration(c.clock.Boot()-began) > inForceWait {
			c.named(&tidegate.Error{
				Op: "set synchronous_standby_names", Subject: string(c.cfg.Stream), Class: tidegate.Transient,
				Hint: "something else sets it, too: the server's command line, ALTER SYSTEM, or the local configuration of Patroni's node, which wins over what its API was told",
				Err:  fmt.Errorf("the driver has set %q, and the server still shows %q after %s", want, set[namesSetting], inForceWait),
			})
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// named notes why names are not what they should be, nil when they are.
func (c *Capture) named(err error) {
	c.mu.Lock()
	news := text(err) != text(c.naming.err)
	c.naming.err = err
	c.mu.Unlock()
	if !news {
		return
	}
	signal(c.report)
	if err != nil {
		c.log.Warn("names not set", "err", err, "hint", tidegate.HintOf(err))
	}
}
