package standby

import (
	"strings"
	"sync"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/local"
)

// connector is a library that says hello as it is told, and notes what it hears in
// order.
type connector struct {
	conn *local.Conn
	mu   sync.Mutex
	got  []local.Message
	wg   sync.WaitGroup
}

func (c *cluster) connector(h local.Hello) *connector {
	c.t.Helper()
	return c.connectorOf(h, local.LibraryProgress{})
}

// connectorOf says more of itself at first.
func (c *cluster) connectorOf(h local.Hello, p local.LibraryProgress) *connector {
	c.t.Helper()
	h.Service, h.Stream, h.Kind, h.Dir = "ledger", "main", local.KindJournal, "/nowhere"
	k := &connector{}
	c.until("socket", func() bool {
		var err error
		k.conn, _, err = local.Dial(c.ctx(), local.SocketPath(c.run, local.DaemonStandby, "ledger", "main"), h)
		return err == nil
	})
	p.End, p.Applied, p.L.Position = h.End, h.End, h.End
	if err := k.conn.Send(&p); err != nil {
		c.t.Fatal(err)
	}
	k.wg.Go(func() {
		for {
			m, err := k.conn.Recv()
			if err != nil {
				return
			}
			if b, ok := m.(*local.Batch); ok {
				m = &local.Batch{First: b.First, Next: b.Next}
			}
			k.mu.Lock()
			k.got = append(k.got, m)
			k.mu.Unlock()
		}
	})
	c.t.Cleanup(k.close)
	return k
}

func (k *connector) close() {
	_ = k.conn.Close() // may be closed already
	k.wg.Wait()
}

// heard returns the roles and how many batches there were before each change of
// lineage, and in all.
func (k *connector) heard() (roles []local.Role, before []int, batches int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.got {
		switch m := m.(type) {
		case *local.Role:
			if n := len(roles); n == 0 || roles[n-1].Lineage != m.Lineage {
				before = append(before, batches)
			}
			roles = append(roles, *m)
		case *local.Batch:
			batches++
		}
	}
	return roles, before, batches
}

// A library that rests is told its part and no more; one of another generation too,
// and learns which one there is.
func TestLibraryThatRestsOrIsOfAnotherGenerationIsNotFed(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	for _, h := range []local.Hello{{Rest: true}, {Generation: 7}} {
		k := c.connector(h)
		c.until("told to follow", func() bool {
			roles, _, _ := k.heard()
			return len(roles) > 0 && roles[len(roles)-1].State == local.StateFollow && roles[len(roles)-1].Generation == 1
		})
		// A library that is fed gets everything meanwhile: its session takes the other's place.
		fed := c.connector(local.Hello{Generation: 1})
		c.until("the other is fed", func() bool { _, _, n := fed.heard(); return n == 5 })
		if _, _, n := k.heard(); n != 0 {
			t.Errorf("%+v was fed %d batches", h, n)
		}
		fed.close()
	}
}

// A library that has no more room holds up its batches and no other message.
func TestLibraryIsFedAsFarAsItHasRoom(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.seal(5, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	k := c.connectorOf(local.Hello{Generation: 1}, local.LibraryProgress{Room: 250})
	c.until("three batches", func() bool { _, _, n := k.heard(); return n == 3 })
	w.seal(2, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("told of what is committed since", func() bool {
		roles, _, _ := k.heard()
		return roles[len(roles)-1].ApplyTo == 700
	})
	if _, _, n := k.heard(); n != 3 {
		t.Errorf("fed %d batches, and there is room for three", n)
	}
	if err := k.conn.Send(&local.LibraryProgress{End: 300, Room: 600}); err != nil {
		t.Fatal(err)
	}
	c.until("three more", func() bool { _, _, n := k.heard(); return n == 6 })
	if err := k.conn.Send(&local.LibraryProgress{End: 600}); err != nil {
		t.Fatal(err)
	}
	c.until("the last one", func() bool { _, _, n := k.heard(); return n == 7 })
}

// Where the lineage changes in the log is told between the batches.
func TestLineageIsToldBeforeItsBatches(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	w := c.start1()
	w.attach("dr1")
	w.sealLineage("x:1", "")
	w.seal(3, 100)
	w.sealLineage("x:1+2@000000000000012c", "x:1")
	w.seal(2, 100)
	if err := w.ship(); err != nil {
		t.Fatal(err)
	}
	c.until("committed", func() bool { return c.nodes["dr1"].status().Commit == 7 })
	k := c.connector(local.Hello{Lineage: "x:1"})
	c.until("all fed", func() bool { _, _, n := k.heard(); return n == 5 })
	roles, before, _ := k.heard()
	if len(before) != 2 || before[0] != 0 || before[1] != 3 || roles[len(roles)-1].Lineage != "x:1+2@000000000000012c" {
		t.Errorf("lineage changed after %v batches, roles %+v", before, roles)
	}
}

// What keeps a library from applying is the stream's state on this node, until it
// takes it back.
func TestFindingIsShown(t *testing.T) {
	c := withLibrary(t, 1, "dr1")
	c.start1()
	k := c.connector(local.Hello{Rest: true})
	if err := k.conn.Send(&local.Finding{Severity: local.SeverityCritical, Class: tidegate.Permanent, Text: "no whole base", Hint: "seed the node"}); err != nil {
		t.Fatal(err)
	}
	c.until("shown", func() bool { return strings.Contains(c.nodes["dr1"].status().Err, "no whole base") })
	if err := k.conn.Send(&local.Finding{}); err != nil {
		t.Fatal(err)
	}
	c.until("taken back", func() bool { return c.nodes["dr1"].status().Err == "" })
}

func TestForksAreTold(t *testing.T) {
	own, err := parseHistory("pg:7:1+2@0000000003000158")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		store string
		f     fork
		want  bool
	}{
		"by place":            {"postgres", fork{9, 0x3000158}, true},
		"at another place":    {"postgres", fork{2, 0x3000160}, false},
		"by epoch":            {storeJournal, fork{2, 0x3000158}, true},
		"under another":       {storeJournal, fork{9, 0x3000158}, false},
		"of nobody's knowing": {"tape", fork{9, 0x3000158}, true},
	} {
		if got := targetOf(c.store).forked(own, c.f); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if targetOf("postgres").open != nil {
		t.Error("the standby node reads PostgreSQL's log")
	}
}
