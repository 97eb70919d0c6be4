package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/examples/ledger/daemontest"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/local"
)

// process is a `ledger node` process of its own.
type process struct {
	t    *testing.T
	name string
	args []string
	url  string
	cmd  *exec.Cmd
	out  bytes.Buffer
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(binary(p.t), p.args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// kill is kill -9.
func (p *process) kill() {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Error(err)
	}
	_ = p.cmd.Wait() // "signal: killed" is what was asked for
	p.cmd = nil
}

// binary is this test's own binary under the name that makes it the ledger.
func binary(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "ledger")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	return link
}

func processes(t *testing.T) []*process {
	t.Helper()
	var all []*process
	var peers []string
	for i := range 3 {
		name, at := fmt.Sprintf("p%d", i+1), daemontest.Address(t)
		run := daemontest.RunDir(t)
		for _, c := range ledger.Currencies() {
			daemontest.Start(t, run, local.DaemonAgent, c.String())
		}
		peers = append(peers, "--peer", fmt.Sprintf("%s=%s,%s", name, daemontest.Address(t), at))
		all = append(all, &process{t: t, name: name, url: "http://" + at, args: []string{
			"node", "--name", name, "--http", at, "--data", filepath.Join(t.TempDir(), name), "--run", run,
			"--heartbeat", "300ms", "--snapshot-entries", "300",
		}})
	}
	for _, p := range all {
		p.args = append(p.args, peers...)
		p.start()
		t.Cleanup(func() {
			p.kill()
			if t.Failed() {
				t.Logf("%s said:\n%s", p.name, p.out.String())
			}
		})
	}
	return all
}

func status(p *process) (s api.Status, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+api.PathStatus, nil)
	if err != nil {
		return s, false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, false
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s) == nil
}

// await asks every process, again and again, until one of them is as wanted.
func await(t *testing.T, all []*process, what string, want func(api.Status) bool) *process {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		for _, p := range all {
			if s, ok := status(p); ok && want(s) {
				return p
			}
		}
	}
	t.Fatalf("waited a minute for %s", what)
	return nil
}

// TestKillNine kills the leader under load, starts it again, and so on: nothing
// that was acknowledged is lost, and all journals end up the same.
func TestKillNine(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	all := processes(t)
	await(t, all, "a leader", func(s api.Status) bool { return s.Serving })
	acked := filepath.Join(t.TempDir(), "acked")
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer hc.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var loads errgroup.Group
	for i, p := range all {
		l, err := client.NewLoad(nil, hc, t.Output(), client.LoadConfig{
			URL: p.url, AckedPath: acked, Workers: 4, Accounts: 10, TryTimeout: time.Second, Seed: uint64(i), Progress: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		loads.Go(func() error { return l.Run(ctx) })
	}
	records := func(s api.Status) (n uint64) {
		for _, st := range s.Streams {
			n += st.Records
		}
		return n
	}
	for round := range 3 {
		lead := await(t, all, "a leader with news", func(s api.Status) bool {
			return s.Serving && records(s) > uint64(400*(round+1))
		})
		lead.kill()
		await(t, all, "another leader", func(s api.Status) bool { return s.Serving })
		lead.start()
	}
	await(t, all, "a leader at the end", func(s api.Status) bool { return s.Serving && records(s) > 1600 })
	cancel()
	if err := loads.Wait(); err != nil {
		t.Fatal(err)
	}
	lead := await(t, all, "a leader to check", func(s api.Status) bool { return s.Serving })
	rep, err := client.Check(t.Context(), hc, client.CheckConfig{URL: lead.url, AckedPath: acked})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Lost != 0 || rep.Recovered != rep.Acknowledged || rep.Acknowledged == 0 || !rep.Sound {
		t.Fatalf("%+v", rep)
	}
	for _, b := range rep.Books {
		for _, p := range all {
			var d api.Digest
			resp, err := hc.Get(fmt.Sprintf("%s%s?currency=%s&at=%s", p.url, api.PathDigest, b.Currency, b.Position))
			if err != nil {
				t.Fatal(err)
			}
			err = json.NewDecoder(resp.Body).Decode(&d)
			_ = resp.Body.Close()
			// 410: it has moved on, because the last requests of the load came in after the check.
			if err != nil || resp.StatusCode == http.StatusOK && d.Digest != b.Digest {
				t.Errorf("%s %s: %+v, %v; want digest %s", p.name, b.Currency, d, err, b.Digest)
			}
		}
	}
	t.Logf("%d acknowledged over 3 kills, %d lost", rep.Acknowledged, rep.Lost)
}
