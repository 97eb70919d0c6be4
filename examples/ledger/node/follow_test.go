package node

import (
	"net/http"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/daemontest"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/journal"
)

// shipped is what a standby node has of a primary's stream.
type shipped struct {
	raw     []byte
	end     tidegate.Position
	lineage tidegate.Lineage
}

func ship(t *testing.T, from *running) map[ledger.Currency]shipped {
	t.Helper()
	out := map[ledger.Currency]shipped{}
	for _, c := range ledger.Currencies() {
		end := from.digest(c).Position
		out[c] = shipped{raw: from.journal(c, end), end: end, lineage: from.node.shelf.Book(c).Journal().Lineage()}
	}
	return out
}

// batches cuts raw journal bytes into batches of n records.
func batches(t *testing.T, raw []byte, n int) []*local.Batch {
	t.Helper()
	var out []*local.Batch
	b := &local.Batch{Epoch: 1, Seq: 1}
	flush := func(next tidegate.Position) {
		if b.Next = next; b.Records > 0 {
			b.Payload = raw[b.First:next]
			out = append(out, b)
		}
		b = &local.Batch{Epoch: 1, Seq: tidegate.Seq(len(out) + 1), First: next}
	}
	var last tidegate.Position
	if err := journal.Scan(raw, 0, func(r journal.Record) error {
		b.Records++
		last = r.Next
		if int(b.Records) == n {
			flush(r.Next)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	flush(last)
	return out
}

func follower(t *testing.T) (*running, map[ledger.Currency]*daemontest.Script) {
	t.Helper()
	self := cluster.Peer{Node: "d1", Raft: daemontest.Address(t), HTTP: "http://" + daemontest.Address(t)}
	n := newRunning(t, "d1", Config{HTTP: self.HTTP[len("http://"):], Follow: true, Peers: []cluster.Peer{self}})
	standbys := map[ledger.Currency]*daemontest.Script{}
	for _, c := range ledger.Currencies() {
		standbys[c] = daemontest.Start(t, n.cfg.RunDir, local.DaemonStandby, c.String())
	}
	return n, standbys
}

func TestFollowThenPromote(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	acked := load(t, lead, 300)
	dr, standbys := follower(t)
	dr.start()
	for c, s := range ship(t, lead) {
		standbys[c].Tell(&local.Role{State: local.StateFollow, Epoch: 1, ApplyTo: 0, Lineage: s.lineage})
		for _, b := range batches(t, s.raw, 37) {
			standbys[c].Tell(b)
		}
		standbys[c].Until(func(p local.LibraryProgress) bool { return p.Applied == s.end })
	}
	sameBooks(t, lead, dr)
	if status, _, prob := dr.post("/accounts", api.Command{Client: tidegate.NewID(), Request: 1, Currency: ledger.EUR, To: "x"}, time.Second); status != http.StatusServiceUnavailable || prob.Reason != api.ReasonNotActive {
		t.Fatalf("a standby took a command: %d %+v", status, prob)
	}

	// A follower that is started again finds its state in its journal.
	dr.stop()
	dr.start()
	sameBooks(t, lead, dr)

	ends := ship(t, lead)
	for _, n := range nodes {
		n.stop()
	}
	promote(t, dr, standbys, ends)
	check(t, dr, acked)
	acked2 := load(t, dr, 100)
	check(t, dr, acked2)
	for _, c := range ledger.Currencies() {
		if got, want := dr.node.shelf.Book(c).Journal().Lineage(), ends[c].lineage+"+2@"+tidegate.Lineage(ends[c].end.String()); got != want {
			t.Errorf("lineage %s, want %s", got, want)
		}
	}

	// Promoted once, promoted for ever: what was acknowledged since is there
	// after a restart, before anybody tells it anything, and being told again
	// changes nothing.
	before := dr.digest(ledger.EUR)
	dr.stop()
	dr.start()
	leader(t, []*running{dr})
	check(t, dr, acked2)
	if after := dr.digest(ledger.EUR); after != before {
		t.Errorf("digest after the restart %+v, before %+v", after, before)
	}
	check(t, dr, acked)
	check(t, dr, load(t, dr, 50))
}

// promote does what a standby node does at F7.
func promote(t *testing.T, dr *running, standbys map[ledger.Currency]*daemontest.Script, at map[ledger.Currency]shipped) {
	t.Helper()
	for c, s := range standbys {
		dr.agents[c].Hold(2)
		s.Forget() // a standby node whose service is active ships nothing to it
		s.Tell(&local.Role{State: local.StateActive, Epoch: 2, ApplyTo: at[c].end, Branch: at[c].end, Lineage: at[c].lineage})
	}
	leader(t, []*running{dr})
}

// TestPromotionInterrupted stops the node after one book's promotion and before
// the other's: nothing was seeded yet, and the second attempt completes it.
func TestPromotionInterrupted(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	acked := load(t, lead, 60)
	all := ship(t, lead)
	dr, standbys := follower(t)
	dr.start()
	for c, s := range all {
		standbys[c].Tell(&local.Role{State: local.StateFollow, Epoch: 1, Lineage: s.lineage})
		for _, b := range batches(t, s.raw, 1000) {
			standbys[c].Tell(b)
		}
		standbys[c].Until(func(p local.LibraryProgress) bool { return p.Applied == s.end })
	}
	eur := all[ledger.EUR]
	standbys[ledger.EUR].Tell(&local.Role{State: local.StateActive, Epoch: 2, ApplyTo: eur.end, Branch: eur.end, Lineage: eur.lineage})
	// The branch is in the journal: the promotion of this book has begun.
	standbys[ledger.EUR].Until(func(p local.LibraryProgress) bool { return p.End > eur.end })
	dr.stop()
	if ok, err := cluster.Exists(dr.cfg.Dir); ok || err != nil {
		t.Fatalf("seeded with one book only: %v, %v", ok, err)
	}
	dr.start()
	promote(t, dr, standbys, all)
	check(t, dr, acked)
	check(t, dr, load(t, dr, 50))
}

// TestPrimaryComesBackAsStandby: a primary that was left behind gives up its
// cluster, forgets what the stream went on without, follows, also after a
// restart, and can be made primary again.
func TestPrimaryComesBackAsStandby(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	load(t, lead, 50)
	dr, standbys := follower(t)
	dr.start()
	first := ship(t, lead)
	for c, s := range first {
		standbys[c].Tell(&local.Role{State: local.StateFollow, Epoch: 1, Lineage: s.lineage})
		for _, b := range batches(t, s.raw, 1000) {
			standbys[c].Tell(b)
		}
		standbys[c].Until(func(p local.LibraryProgress) bool { return p.Applied == s.end })
	}
	for _, n := range nodes {
		n.stop()
	}
	promote(t, dr, standbys, first)
	acked := load(t, dr, 100)
	kept, digests := ship(t, dr), map[ledger.Currency]api.Digest{}
	for _, c := range ledger.Currencies() {
		digests[c] = dr.digest(c)
	}
	load(t, dr, 30) // which nobody else has
	for c, s := range standbys {
		// It says so every 200 ms only: what it reports below is of after the cut.
		s.Until(func(p local.LibraryProgress) bool { return p.Applied > kept[c].end })
	}
	for c, s := range standbys {
		s.Forget()
		dr.agents[c].Tell(&local.Role{State: local.StateFenced, Epoch: 3})
		dr.agents[c].Until(func(p local.LibraryProgress) bool { return p.Gate == machine.Fenced })
	}
	for c, s := range standbys {
		s.Tell(&local.Rewind{To: kept[c].end, Epoch: 3})
		s.Forget()
	}
	follows := func() {
		t.Helper()
		for c, s := range standbys {
			s.Forget()
			s.Until(func(p local.LibraryProgress) bool { return p.End == kept[c].end })
			s.Tell(&local.Role{State: local.StateFollow, Epoch: 3, ApplyTo: kept[c].end, Lineage: kept[c].lineage})
			s.Until(func(p local.LibraryProgress) bool { return p.Applied == kept[c].end && p.DigestAt == p.Applied })
			if got := dr.digest(c); got != digests[c] {
				t.Errorf("%s: digest %+v, want %+v", c, got, digests[c])
			}
		}
		var st api.Status
		dr.get(api.PathStatus, &st)
		if st.Role != api.RoleStandby || st.Promoted || st.Streams[0].State != api.StateFollow {
			t.Errorf("status %+v", st)
		}
	}
	follows()
	if ok, err := cluster.Exists(dr.cfg.Dir); ok || err != nil {
		t.Errorf("its cluster is still there: %v, %v", ok, err)
	}
	dr.stop()
	for _, s := range standbys {
		s.Gone()
	}
	dr.start()
	follows()
	for c, s := range standbys {
		dr.agents[c].Forget()
		dr.agents[c].Hold(4)
		s.Forget()
		s.Tell(&local.Role{State: local.StateActive, Epoch: 4, ApplyTo: kept[c].end, Branch: kept[c].end, Lineage: kept[c].lineage})
	}
	leader(t, []*running{dr})
	check(t, dr, acked)
	check(t, dr, load(t, dr, 50))
}

// TestRestartedPrimaryIsToldToFollow: it leads by itself after a restart, until
// the standby node says that another site does.
func TestRestartedPrimaryIsToldToFollow(t *testing.T) {
	dr, standbys := follower(t)
	dr.start()
	for c, s := range standbys {
		dr.agents[c].Hold(2)
		s.Tell(&local.Role{State: local.StateActive, Epoch: 2})
	}
	leader(t, []*running{dr})
	load(t, dr, 20)
	at := ship(t, dr)
	dr.stop()
	for c, s := range standbys {
		s.Gone()
		s.Forget()
		dr.agents[c].Mute()
	}
	dr.start()
	leader(t, []*running{dr}) // of its cluster; nothing leaves
	for c, s := range standbys {
		s.Tell(&local.Role{State: local.StateFollow, Epoch: 3, ApplyTo: at[c].end, Lineage: at[c].lineage})
	}
	for c, s := range standbys {
		s.Until(func(p local.LibraryProgress) bool { return p.Applied == at[c].end && p.DigestAt == p.Applied })
	}
	eventually(t, "a standby", func() bool {
		var st api.Status
		dr.get(api.PathStatus, &st)
		return st.Role == api.RoleStandby
	})
}
