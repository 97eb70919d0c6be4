package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/daemontest"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/examples/ledger/node"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/stores/journal/replay"
)

// archiveLedger archives n commands to the example's book in euros, a second apart, and
// returns the digests of its state behind each of them.
func archiveLedger(t *testing.T, n int) (*archived, []tidegate.Digest) {
	t.Helper()
	a := newArchived(t)
	a.m.Info.Service, a.m.Info.Name = "ledger", "eur"
	if _, err := a.m.B.Put(t.Context(), archive.StreamName(a.m.Info.Stream), bytes.NewReader(a.m.Info.Encode()), bucket.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	from := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Open(from, journal.Config{Service: "ledger", Stream: "eur", ID: book.HistoryID("ledger", ledger.EUR)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }() // all of it was synced
	epoch := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	a.m.Time = epoch.UnixNano()
	a.m.Lineage(t, j.Lineage(), "")
	state := ledger.New(ledger.EUR)
	var digests []tidegate.Digest
	for i := range n {
		at := epoch.Add(time.Duration(i) * time.Second)
		cmd := ledger.Command{Kind: ledger.KindOpen, Currency: ledger.EUR, TimeUnix: at.UnixNano(), Client: ledger.ClientID{1}, Request: ledger.Request(i + 1), To: "alice"}
		if i > 0 {
			cmd.Kind, cmd.Amount = ledger.KindDeposit, ledger.Amount(i)
		}
		rec, err := cmd.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		where, err := j.SubmitAt(t.Context(), j.End(), rec, at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := state.Apply(where.First, where.Next, rec); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, state.Digest())
	}
	if err := j.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.ship(t, from, j)
	return a, digests
}

// TestReplayOfALedger: the example's service, in a sandbox, is fed a range of an archive,
// and then more of it; what its state is then must be what is on record.
func TestReplayOfALedger(t *testing.T) {
	a, digests := archiveLedger(t, 500)
	sandbox := daemontest.RunDir(t)
	self := cluster.Peer{Node: "sandbox", Raft: daemontest.Address(t), HTTP: "http://" + daemontest.Address(t)}
	n, err := node.New(slog.New(slog.NewTextHandler(t.Output(), nil)), node.Config{
		Name: "sandbox", Service: "ledger", Dir: t.TempDir(), HTTP: self.HTTP[len("http://"):], RunDir: sandbox, Follow: true, Peers: []cluster.Peer{self},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }() // ends below
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	args := []string{"replay", "--service", "ledger", "--run", sandbox}
	// What was exported of the range comes to the digest that all of the archive does.
	part := *a
	part.root = filepath.Join(t.TempDir(), "part")
	part.url = "file://" + part.root
	a.run(t, cli.OK, "export", "--service", "ledger", "--from", "2026-03-01T00:00:30Z", "--to", "2026-03-01T00:01:39Z", "--out", part.root)
	out, errs := part.run(t, cli.UnknownState, append(args, "--to", "2026-03-01T00:01:39Z")...)
	says(t, out, "100 records", "digest: "+digests[99].String(), "verdict: unknown: no digest is on record")
	says(t, errs, "waiting for the service: start it in its standby role, with run folder "+sandbox, "hint: --dry-run lists")
	out, _ = a.run(t, cli.OK, append(args, "--to", "2026-03-01T00:01:59Z", "--digest", digests[119].String(), "--speed", "1000x", "--from", "2026-03-01T00:01:50Z")...)
	says(t, out, "20 records", "(as given): same", "verdict: same")
	out, errs = a.run(t, cli.Unverified, append(args, "--digest", digests[498].String(), "-o", "json")...)
	var res []replayResult
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	if len(res) != 1 || res[0].Verdict != replay.Differs || res[0].Digest != digests[499].String() || *res[0].Records != 380 || *res[0].Position != a.end {
		t.Errorf("%s", out)
	}
	says(t, errs, "the state is "+digests[499].String())

	// What was measured by it says how long a service that was restored will replay.
	into := filepath.Join(t.TempDir(), "into")
	a.run(t, cli.OK, "restore", "--service", "ledger", "--into", into+"1")
	out, _ = a.run(t, cli.OK, "restore", "--service", "ledger", "--into", into+"2", "-o", "json")
	var back restoreResult
	if err := json.Unmarshal([]byte(out), &back); err != nil {
		t.Fatal(err)
	}
	if back.ReplayBy == nil || *back.ReplayBy != 2 || back.Recovery == nil || *back.Recovery != *back.Predicted+*back.ReplayPredicted {
		t.Errorf("%s", out)
	}
}

// TestReplayArguments: every mistake is said before anything is listened on.
func TestReplayArguments(t *testing.T) {
	a := archiveJournal(t, 20)
	_, errs := a.run(t, cli.Usage, "replay", "--speed", "fast", "--digest", "1", "--wait", "0s")
	says(t, errs, "--service", "--speed", "--digest", "--wait", "--run")
	for _, from := range []string{"latest", "yesterday"} {
		a.run(t, cli.Usage, "replay", "--service", "bank", "--dry-run", "--from", from)
	}
	for text, want := range map[string]float64{"max": 0, "10x": 10, "0.5x": 0.5, "3": 3} {
		if got, err := parseSpeed(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"0x", "-1x", "NaN", "Inf", "x", "1e9x"} {
		if _, err := parseSpeed(text); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
	dir := daemontest.RunDir(t)
	if err := os.WriteFile(filepath.Join(dir, "agent.pid"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs = a.run(t, cli.Refused, "replay", "--service", "bank", "--run", dir)
	says(t, errs, "it is not empty: agent.pid", "hint: nothing was done")
	_, errs = a.run(t, cli.Unreachable, "replay", "--service", "bank", "--run", filepath.Join(dir, "run"), "--wait", "1ms")
	says(t, errs, "has not connected", "hint: start the service")
	a.run(t, cli.NotFound, "replay", "--service", "bank", "--to", "2031-01-01T00:00:00Z", "--dry-run")

	out, _ := a.run(t, cli.OK, "replay", "--service", "bank", "--dry-run")
	says(t, out, "state begins with the log's beginning, batches 1 to", fmt.Sprintf("to %s", a.end))
}
