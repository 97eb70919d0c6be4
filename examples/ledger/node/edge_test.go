package node

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/daemontest"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/local"
)

// alone is a cluster of one with an account to pay into.
func alone(t *testing.T) (*running, func(durability tidegate.Mode) (int, api.Problem, http.Header)) {
	t.Helper()
	self := cluster.Peer{Node: "p1", Raft: daemontest.Address(t), HTTP: "http://" + daemontest.Address(t)}
	n := newRunning(t, "p1", Config{HTTP: self.HTTP[len("http://"):], Peers: []cluster.Peer{self}})
	n.start()
	leader(t, []*running{n})
	id, request := tidegate.NewID(), ledger.Request(1)
	n.must(api.PathAccounts, api.Command{Client: id, Request: request, Currency: ledger.EUR, To: "a"})
	return n, func(durability tidegate.Mode) (int, api.Problem, http.Header) {
		request++
		body, err := json.Marshal(api.Command{
			Client: id, Request: request, Currency: ledger.EUR, To: "a", Amount: 1, Durability: durability,
		})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(http.MethodPost, n.url()+api.PathDeposits, strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(api.HeaderTimeout, "300ms")
		resp, err := n.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var p api.Problem
		if resp.StatusCode != http.StatusOK {
			if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
				t.Fatal(err)
			}
		}
		return resp.StatusCode, p, resp.Header
	}
}

func TestClosedGateIsAnsweredAtOnce(t *testing.T) {
	n, pay := alone(t)
	const window = 200 * time.Millisecond
	agent := n.agents[ledger.EUR]
	stuck := n.node.shelf.Book(ledger.EUR).Journal().End()
	agent.Terms(func(m *local.DaemonProgress) {
		m.D, m.Mode = stuck, tidegate.ModeBounded
		m.Bounds = tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: window}
		m.Policy = tidegate.Policy{Reaction: tidegate.ReactReject}
	})
	if code, p, _ := pay(""); code != http.StatusOK {
		t.Fatalf("within the bound: %d %+v", code, p)
	}
	var (
		code   int
		p      api.Problem
		header http.Header
	)
	for deadline := time.Now().Add(limit); p.Reason != api.ReasonRejected && time.Now().Before(deadline); {
		code, p, header = pay("")
	}
	if code != http.StatusServiceUnavailable || p.RetryAfter < 1 || p.Exposure == nil || !p.Exposure.Known || p.Exposure.Records == 0 ||
		p.Utilisation < 1 || !strings.HasPrefix(p.State, "armed/") || p.Detail == "" || header.Get("Retry-After") == "" {
		t.Fatalf("%d %+v, Retry-After %q", code, p, header.Get("Retry-After"))
	}
	agent.Terms(nil)
	eventually(t, "open again", func() bool {
		code, p, _ = pay("")
		return code == http.StatusOK
	})
	agent.Terms(func(m *local.DaemonProgress) { m.Drain = true })
	eventually(t, "draining", func() bool {
		code, p, header = pay("")
		return p.Reason == api.ReasonDraining
	})
	if code != http.StatusServiceUnavailable || p.State != "draining" || p.RetryAfter <= 0 || header.Get("Retry-After") != "1" {
		t.Errorf("%d %+v, Retry-After %q", code, p, header.Get("Retry-After"))
	}
}

func TestDurabilityOfOneTransfer(t *testing.T) {
	n, pay := alone(t)
	stuck := n.node.shelf.Book(ledger.EUR).Journal().End()
	n.agents[ledger.EUR].Terms(func(m *local.DaemonProgress) {
		b, _ := tidegate.ModeOpen.Bounds(tidegate.Bounds{})
		m.D, m.Mode, m.Bounds = stuck, tidegate.ModeOpen, b
	})
	if code, p, _ := pay(""); code != http.StatusOK {
		t.Errorf("open: %d %+v", code, p)
	}
	if code, p, _ := pay(tidegate.ModeSync); code != http.StatusServiceUnavailable || p.Reason != api.ReasonGateClosed {
		t.Errorf("sync, nothing durable: %d %+v", code, p)
	}
	n.agents[ledger.EUR].Terms(nil)
	if code, p, _ := pay(tidegate.ModeSync); code != http.StatusOK {
		t.Errorf("sync: %d %+v", code, p)
	}
	if code, p, _ := pay("maybe"); code != http.StatusBadRequest || p.Reason != api.ReasonBadRequest {
		t.Errorf("nonsense: %d %+v", code, p)
	}
}
