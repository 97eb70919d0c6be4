package capture

import (
	"errors"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/pgtest"
)

const slots = "SELECT count(*) FROM pg_replication_slots"

func TestRemovedStreamLeavesNothing(t *testing.T) {
	s := newSite(t, pgtest.Config{}, func(set *Settings) { set.SetNames = true })
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.pg.UntilSQL(t, "SHOW synchronous_standby_names", "tidegate")
	done := s.commit("INSERT INTO t VALUES (1, 'x')")
	s.waits(done)
	s.until("what it keeps is known", func(Status) bool { return len(s.c.Keeps()) == 2 })

	s.c.Wanted(false)
	s.goes(done)
	s.pg.UntilSQL(t, "SHOW synchronous_standby_names", "")
	s.pg.UntilSQL(t, slots, "0")
	s.until("nothing kept", func(st Status) bool { return len(s.c.Keeps()) == 0 && errors.Is(st.Finding, errLeft) })
	s.goes(s.commit("INSERT INTO t VALUES (2, 'nobody waits')"))

	// An agent that is started again, with the stream still in its file, makes no slot.
	s.unregistered = true
	s.connect(nil)
	s.until("not registered", func(st Status) bool { return errors.Is(st.Finding, errUnregistered) })
	if n := s.pg.SQL(t, slots); n != "0" {
		t.Errorf("%s slots", n)
	}
	s.c.Wanted(true)
	s.active()
	s.pg.UntilSQL(t, slots, "1")
}

func TestRemovedStreamWithNamesOfTheOperator(t *testing.T) {
	s := newSite(t, pgtest.Config{}, nil)
	s.pg.SQL(t, table)
	s.durable(tidegate.ModeSync, tidegate.Bounds{})
	s.pg.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (tidegate, other)'")
	s.pg.SQL(t, "SELECT pg_reload_conf()")
	s.until("waited for", func(st Status) bool { return !st.Leaks })
	s.c.Wanted(false)
	s.finds("leaving:FIRST 1 (tidegate, other)")
	if keeps := strings.Join(s.c.Keeps(), "; "); !strings.Contains(keeps, "pg_drop_replication_slot('tidegate')") || !strings.Contains(keeps, "take tidegate out") {
		t.Errorf("keeps %q", keeps)
	}
	done := s.commit("INSERT INTO t VALUES (1, 'x')")
	s.waits(done)
	s.grant(s.caughtUp().Head, tidegate.ModeSync, tidegate.Bounds{})
	s.goes(done) // it is answered until nobody asks
	s.pg.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = ''")
	s.pg.SQL(t, "SELECT pg_reload_conf()")
	s.pg.UntilSQL(t, slots, "0")
	s.finds("-leaving")
}
