package node

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/local"
)

func TestJournalsAreByteIdentical(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	// Through a node that does not lead: it passes commands on.
	via := nodes[0]
	if via == lead {
		via = nodes[1]
	}
	acked := load(t, via, 600)
	sameBooks(t, nodes...)
	for _, n := range nodes {
		check(t, n, acked)
	}
}

func TestLeaderStopsAndAnotherGoesOn(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	via := nodes[0]
	if via == lead {
		via = nodes[1]
	}
	acked := filepath.Join(t.TempDir(), "acked")
	var g errgroup.Group
	g.Go(func() error { runLoad(t, via.url(), acked, 1500); return nil })
	// Once money moves, the leader goes.
	eventually(t, "200 records", func() bool { return lead.applied(ledger.EUR) >= 200 })
	lead.stop()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var left []*running
	for _, n := range nodes {
		if n != lead {
			left = append(left, n)
		}
	}
	sameBooks(t, left...)
	check(t, left[0], acked)
	// It comes back, replays raft's log over its own journal, and catches up.
	lead.start()
	sameBooks(t, nodes...)
	check(t, lead, acked)
}

// applied returns how many records a node's book has.
func (r *running) applied(c ledger.Currency) uint64 {
	var s api.Status
	r.get("/status", &s)
	for _, st := range s.Streams {
		if st.Currency == c {
			return st.Records
		}
	}
	return 0
}

func TestAllRestart(t *testing.T) {
	nodes := site(t, func(c *cluster.Config) {
		c.SnapshotEntries, c.SnapshotEvery = 150, 20*time.Millisecond
	})
	acked := load(t, nodes[0], 400)
	sameBooks(t, nodes...)
	before := nodes[0].journal(ledger.EUR, nodes[0].digest(ledger.EUR).Position)
	for _, n := range nodes {
		n.stop()
	}
	for _, n := range nodes {
		n.start()
	}
	leader(t, nodes)
	sameBooks(t, nodes...)
	after := nodes[0].journal(ledger.EUR, nodes[0].digest(ledger.EUR).Position)
	if string(after) != string(before) {
		t.Error("a restart changed the journal")
	}
	check(t, nodes[2], acked)
	more := load(t, nodes[2], 100)
	sameBooks(t, nodes...)
	check(t, nodes[1], more)
}

func (r *running) digest(c ledger.Currency) api.Digest {
	r.t.Helper()
	var d api.Digest
	r.get("/digest?currency="+c.String(), &d)
	return d
}

func TestSnapshotInstallFetchesTheJournal(t *testing.T) {
	nodes := site(t, func(c *cluster.Config) {
		c.SnapshotEntries, c.SnapshotEvery, c.TrailingEntries = 50, 20*time.Millisecond, 1
	})
	lead := leader(t, nodes)
	late := nodes[0]
	if late == lead {
		late = nodes[1]
	}
	late.stop()
	// Its disk is lost: everything must come from its peers.
	if err := os.RemoveAll(late.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	acked := load(t, lead, 600)
	for _, n := range nodes {
		if n != late {
			snapshotTaken(t, n)
		}
	}
	late.start()
	sameBooks(t, nodes...)
	check(t, late, acked)
	more := load(t, late, 50)
	sameBooks(t, nodes...)
	check(t, late, more)
}

// snapshotTaken waits for raft's snapshot of a node, so that its log no longer
// reaches back to the beginning.
func snapshotTaken(t *testing.T, n *running) {
	t.Helper()
	eventually(t, "a raft snapshot", func() bool {
		ok, err := cluster.Exists(n.cfg.Dir)
		if err != nil {
			t.Log(err) // a snapshot was reaped while we looked
		}
		return ok
	})
}

func TestNothingLeavesWhileTheGateIsClosed(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	id := tidegate.NewID()
	if rec := lead.must("/accounts", api.Command{Client: id, Request: 1, Currency: ledger.EUR, To: "alice"}); rec.Code != ledger.Done {
		t.Fatalf("open: %+v", rec)
	}
	lead.agents[ledger.EUR].Shut(true)
	deposit := api.Command{Client: id, Request: 2, Currency: ledger.EUR, To: "alice", Amount: 500}
	for range 2 {
		status, _, prob := lead.post("/deposits", deposit, 100*time.Millisecond)
		if status != http.StatusServiceUnavailable || prob.Reason != api.ReasonGateClosed {
			t.Fatalf("deposit: %d %+v", status, prob)
		}
	}
	// It is applied, but nobody may know.
	if status := lead.getWithin("/accounts/eur/alice", 100*time.Millisecond); status != http.StatusServiceUnavailable {
		t.Errorf("a balance that is not released was shown: %d", status)
	}
	if status := lead.getWithin(fmt.Sprintf("/transfers/%s/2", id), 100*time.Millisecond); status != http.StatusServiceUnavailable {
		t.Errorf("an outcome that is not released was shown: %d", status)
	}
	// The other currency is another stream with a gate of its own.
	usd := api.Command{Client: id, Request: 3, Currency: ledger.USD, To: "bob"}
	if rec := lead.must("/accounts", usd); rec.Code != ledger.Done {
		t.Errorf("open in usd: %+v", rec)
	}
	records := lead.applied(ledger.EUR)
	lead.agents[ledger.EUR].Shut(false)
	rec := lead.must("/deposits", deposit)
	if rec.Code != ledger.Done || !rec.Duplicate || rec.Balance != 500 {
		t.Errorf("deposit after the gate opened: %+v", rec)
	}
	if again := lead.applied(ledger.EUR); again != records {
		t.Errorf("repeating a remembered request journaled %d records", again-records)
	}
	var a api.Account
	if status := lead.get("/accounts/eur/alice", &a); status != http.StatusOK || a.Balance != 500 {
		t.Errorf("balance: %d %+v", status, a)
	}
	var r api.Receipt
	if status := lead.get(fmt.Sprintf("/transfers/%s/2", id), &r); status != http.StatusOK || r.Position != rec.Position {
		t.Errorf("outcome: %d %+v", status, r)
	}
	if status := lead.get(fmt.Sprintf("/transfers/%s/9", id), nil); status != http.StatusNotFound {
		t.Errorf("unknown request: %d", status)
	}
}

func (r *running) getWithin(path string, d time.Duration) int {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.url()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set(api.HeaderTimeout, d.String())
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestFencedLeaderTurnsClientsAway(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	acked := load(t, lead, 50)
	for _, c := range ledger.Currencies() {
		lead.agents[c].Tell(&local.Role{State: local.StateFenced, Epoch: 7})
	}
	cmd := api.Command{Client: tidegate.NewID(), Request: 1, Currency: ledger.EUR, To: "late"}
	for deadline := time.Now().Add(limit); ; {
		status, rec, prob := lead.post("/accounts", cmd, time.Second)
		if status == http.StatusServiceUnavailable && prob.Reason == api.ReasonFenced {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a fenced node answered %d %+v %+v", status, rec, prob)
		}
		cmd.Request++
	}
	var s api.Status
	lead.get("/status", &s)
	for _, st := range s.Streams {
		if st.State != api.StateFenced || st.FencedBy != 7 {
			t.Errorf("status of %s: %+v", st.Currency, st)
		}
	}
	check(t, lead, acked)
}

func TestBadRequests(t *testing.T) {
	nodes := site(t, nil)
	lead := leader(t, nodes)
	for name, tc := range map[string]struct {
		path, body string
		want       int
	}{
		"not json":         {"/transfers", "{", 400},
		"unknown field":    {"/transfers", `{"colour":"red"}`, 400},
		"two values":       {"/accounts", `{} {}`, 400},
		"empty":            {"/transfers", `{}`, 400},
		"unknown currency": {"/accounts", `{"client":"00000000000000000000000000000001","request":1,"currency":"gbp","to":"a"}`, 400},
		"negative amount":  {"/deposits", `{"client":"00000000000000000000000000000001","request":1,"currency":"eur","to":"a","amount":-1}`, 400},
		"no amount":        {"/deposits", `{"client":"00000000000000000000000000000001","request":1,"currency":"eur","to":"a"}`, 400},
		"open with amount": {"/accounts", `{"client":"00000000000000000000000000000001","request":1,"currency":"eur","to":"a","amount":1}`, 400},
	} {
		t.Run(name, func(t *testing.T) {
			if got := rawPost(t, lead, tc.path, tc.body); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
	for path, want := range map[string]int{
		"/digest?currency=gbp":                          400,
		"/digest?currency=eur&at=1":                     400,
		"/journal/eur?from=zz":                          400,
		"/transfers/xyz/1":                              400,
		"/accounts/eur/nobody":                          404,
		"/healthz":                                      200,
		"/digest?currency=eur&at=" + "0000000000000000": 200,
		"/journal/usd?from=0000000000000000":            200,
	} {
		if got := lead.get(path, nil); got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
}
