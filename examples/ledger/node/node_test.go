package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/daemontest"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit is far beyond what any step takes; only a hang reaches it.
const limit = 60 * time.Second

func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

// running is a node that can be stopped and started again.
type running struct {
	t      *testing.T
	name   string
	cfg    Config
	http   *http.Client
	agents map[ledger.Currency]*daemontest.Script
	node   *Node
	cancel context.CancelFunc
	ended  chan error
}

func (r *running) url() string { return "http://" + r.cfg.HTTP }

func (r *running) start() {
	r.t.Helper()
	n, err := New(testLog(r.t).With("node", r.name), r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.node, r.cancel, r.ended = n, cancel, make(chan error, 1)
	go func() { // owned by running; stop waits for it
		err := n.Run(ctx)
		if ctx.Err() == nil {
			r.t.Errorf("node %s ended by itself: %v", r.name, err)
		}
		r.ended <- err
	}()
	select {
	case <-n.Listens():
	case err := <-r.ended:
		r.cancel()
		r.cancel = nil
		r.t.Fatalf("node %s ended: %v", r.name, err)
	}
}

func (r *running) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	if err := <-r.ended; err != nil {
		r.t.Errorf("node %s: %v", r.name, err)
	}
}

// newRunning prepares a node with scripted agents beside it.
func newRunning(t *testing.T, name string, cfg Config) *running {
	t.Helper()
	run := daemontest.RunDir(t)
	cfg.Name, cfg.Service, cfg.RunDir = tidegate.NodeName(name), "ledger", run
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), name)
	}
	hc := &http.Client{Transport: &http.Transport{}}
	r := &running{t: t, name: name, cfg: cfg, http: hc, agents: map[ledger.Currency]*daemontest.Script{}}
	for _, c := range ledger.Currencies() {
		r.agents[c] = daemontest.Start(t, run, local.DaemonAgent, c.String())
	}
	t.Cleanup(func() {
		r.stop()
		hc.CloseIdleConnections()
	})
	return r
}

// site starts a cluster of three.
func site(t *testing.T, tune func(*cluster.Config)) []*running {
	t.Helper()
	var peers []cluster.Peer
	for i := range 3 {
		peers = append(peers, cluster.Peer{
			Node: tidegate.NodeName(fmt.Sprintf("p%d", i+1)), Raft: daemontest.Address(t), HTTP: "http://" + daemontest.Address(t),
		})
	}
	var nodes []*running
	for _, p := range peers {
		cfg := Config{HTTP: p.HTTP[len("http://"):], Peers: peers, Cluster: cluster.Config{Heartbeat: 200 * time.Millisecond}}
		if tune != nil {
			tune(&cfg.Cluster)
		}
		nodes = append(nodes, newRunning(t, string(p.Node), cfg))
	}
	for _, n := range nodes {
		n.start()
	}
	return nodes
}

func (r *running) get(path string, into any) int {
	r.t.Helper()
	resp, err := r.http.Get(r.url() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			r.t.Fatalf("%s: %s: %v", path, b, err)
		}
	}
	return resp.StatusCode
}

// post sends a command and returns status, receipt and problem.
func (r *running) post(path string, cmd api.Command, timeout time.Duration) (int, api.Receipt, api.Problem) {
	r.t.Helper()
	b, err := json.Marshal(cmd)
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, r.url()+path, bytes.NewReader(b))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set(api.HeaderTimeout, timeout.String())
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var rec api.Receipt
	var prob api.Problem
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusConflict {
		err = json.Unmarshal(body, &rec)
	} else {
		err = json.Unmarshal(body, &prob)
	}
	if err != nil {
		r.t.Fatalf("%s: %s: %v", path, body, err)
	}
	return resp.StatusCode, rec, prob
}

// must posts until the outcome is known, as a client does.
func (r *running) must(path string, cmd api.Command) api.Receipt {
	r.t.Helper()
	for deadline := time.Now().Add(limit); ; {
		status, rec, prob := r.post(path, cmd, time.Second)
		if status == http.StatusOK || status == http.StatusConflict {
			return rec
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: still %d %+v", path, status, prob)
		}
	}
}

// load makes n transfers through target and returns the ack file.
func load(t *testing.T, target *running, n uint64) string {
	t.Helper()
	acked := filepath.Join(t.TempDir(), "acked")
	runLoad(t, target.url(), acked, n)
	return acked
}

func runLoad(t *testing.T, url, acked string, n uint64) {
	t.Helper()
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	defer hc.CloseIdleConnections()
	l, err := client.NewLoad(testLog(t), hc, t.Output(), client.LoadConfig{
		URL: url, AckedPath: acked, Workers: 8, Accounts: 10, Transfers: n, AmountMax: 600_000, TryTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := l.Run(ctx); err != nil {
		t.Fatal(err)
	}
	c := l.Counts()
	if c.Acknowledged+c.Refused < n {
		t.Fatalf("ended after %d acknowledged and %d refused of %d", c.Acknowledged, c.Refused, n)
	}
	if n >= 300 && (c.Acknowledged == 0 || c.Refused == 0) {
		t.Errorf("%d acknowledged, %d refused: the load should see both", c.Acknowledged, c.Refused)
	}
}

// check requires that everything in the ack file is at the target, once.
func check(t *testing.T, target *running, acked string) client.Report {
	t.Helper()
	rep, err := client.Check(t.Context(), target.http, client.CheckConfig{URL: target.url(), AckedPath: acked})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Recovered != rep.Acknowledged || rep.Lost != 0 || !rep.Sound || rep.Acknowledged == 0 {
		t.Fatalf("%s: %+v", target.name, rep)
	}
	return rep
}

// sameBooks waits until all nodes are where the first one's books end and
// requires equal digests and equal journal bytes.
func sameBooks(t *testing.T, nodes ...*running) {
	t.Helper()
	for _, c := range ledger.Currencies() {
		var want api.Digest
		for _, n := range nodes {
			// The longest journal of all is what everybody will come to.
			var d api.Digest
			n.get("/digest?currency="+c.String(), &d)
			if d.Position >= want.Position {
				want = d
			}
		}
		var bytesWant []byte
		for i, n := range nodes {
			var got api.Digest
			if status := n.get(fmt.Sprintf("/digest?currency=%s&at=%s", c, want.Position), &got); status != http.StatusOK {
				t.Fatalf("%s %s: status %d for the digest at %s", n.name, c, status, want.Position)
			}
			if got != want {
				t.Errorf("%s %s: %+v, want %+v", n.name, c, got, want)
			}
			raw := n.journal(c, want.Position)
			if i == 0 {
				bytesWant = raw
			} else if !bytes.Equal(raw, bytesWant) {
				t.Errorf("%s %s: journal differs from %s's", n.name, c, nodes[0].name)
			}
		}
	}
}

// journal returns the bytes of a node's journal up to a position, over HTTP.
func (r *running) journal(c ledger.Currency, to tidegate.Position) []byte {
	r.t.Helper()
	var all []byte
	for at := tidegate.Position(0); at < to; {
		resp, err := r.http.Get(fmt.Sprintf("%s/journal/%s?from=%s&to=%s", r.url(), c, at, to))
		if err != nil {
			r.t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || len(b) == 0 {
			r.t.Fatalf("journal %s from %s: %s, %d bytes, %v", c, at, resp.Status, len(b), err)
		}
		all = append(all, b...)
		if at, err = tidegate.ParsePosition(resp.Header.Get(api.HeaderNext)); err != nil {
			r.t.Fatal(err)
		}
	}
	return all
}

// leader waits until one of the nodes serves.
func leader(t *testing.T, nodes []*running) (lead *running) {
	t.Helper()
	eventually(t, "a leader", func() bool {
		for _, n := range nodes {
			var s api.Status
			if n.get("/status", &s); s.Serving {
				lead = n
			}
		}
		return lead != nil
	})
	return lead
}

// eventually asks again and again; asking is an HTTP exchange or a look at the
// disk, so that it does not spin.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", limit, what)
		}
	}
}

func rawPost(t *testing.T, n *running, path, body string) int {
	t.Helper()
	resp, err := n.http.Post(n.url()+path, "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}
