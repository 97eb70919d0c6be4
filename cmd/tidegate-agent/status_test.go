package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/rpo"
)

func example() agent.Status {
	return agent.Status{
		Node: "n1", Site: "east", Version: "v1", GateReached: true, Gate: "g:7412",
		Streams: []agent.StreamStatus{
			{
				Service: "bank", Stream: "main", State: "writing", Epoch: 3, LibraryConnected: true, ServiceActive: true, HeadKnown: true, Head: 900,
				Writer: &agent.WriterStatus{Durable: 800, DurableSeq: 7, Relay: "w1", Exposure: rpo.Exposure{Known: true, Records: 2, Bytes: 100, Age: 20 * time.Millisecond}},
			},
			{Service: "bank", Stream: "audit", State: "diverged", Observer: &agent.ObserverStatus{DivergedSeq: 9, Diverged: "digest differs"}},
		},
	}
}

// ask runs `tidegate-agent status` against an agent that answers with st.
func ask(t *testing.T, st agent.Status, args ...string) (cli.Code, string, string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(st); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "agent.yaml")
	text := fmt.Sprintf(`node: {cluster: demo, site: east, name: n1}
tls: {ca: /x/ca.crt, cert: /x/agent.crt, key: /x/agent.key}
gates: ["g:7412"]
listen: %s
streams: [{service: bank, stream: main, journal_dir: /j}]
`, server.Listener.Addr())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{"tidegate-agent", "status", "-c", file}, args...), nil, &stdout, &stderr)
	return cli.Code(code), stdout.String(), stderr.String()
}

func TestStatusText(t *testing.T) {
	code, stdout, stderr := ask(t, example())
	if code != cli.OK || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	want := `agent n1 at east, v1; gate g:7412 answers
STREAM      STATE     EPOCH  LIBRARY  HEAD     DURABLE        EXPOSED       AGE   RELAY  NOTES
bank/main   writing   3      active   900      800 (batch 7)  2 rec, 100 B  20ms  w1     -
bank/audit  diverged  0      absent   unknown  -              -             -     -      diverged at batch 9: digest differs
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Error(diff)
	}
}

// Whatever keeps a stream from its promise, or holds it up, is in the notes, and
// what an operator has limited with files below.
func TestStatusTextAtTheEdge(t *testing.T) {
	writer := func(change func(*agent.WriterStatus)) agent.StreamStatus {
		w := &agent.WriterStatus{Durable: 800, DurableSeq: 7, Relay: "w1", Exposure: rpo.Exposure{Known: true}}
		w.Gate = agent.GateStatus{Record: fence.GateArmed, Known: true, State: "flowing"}
		change(w)
		return agent.StreamStatus{Service: "bank", Stream: "main", State: "writing", Epoch: 3, LibraryConnected: true, ServiceActive: true, HeadKnown: true, Head: 900, Writer: w}
	}
	st := agent.Status{
		Node: "n1", Site: "east", Version: "v1", GateReached: true, Gate: "g:7412",
		Streams: []agent.StreamStatus{
			writer(func(*agent.WriterStatus) {}),
			writer(func(w *agent.WriterStatus) {
				w.Gate.State, w.Gate.StateAge = "blocked", 3*time.Second
				w.Lease = &agent.LeaseStatus{TTL: time.Second, Error: "a change of writer has begun"}
			}),
			writer(func(w *agent.WriterStatus) {
				w.Gate.Record, w.Gate.State, w.Gate.SinceSeq, w.Gate.Brake = fence.GateDegraded, "degraded", 12, "ann: DR is down"
				w.Lease = &agent.LeaseStatus{TTL: time.Second, Remaining: time.Second, By: "nodes"}
			}),
			writer(func(w *agent.WriterStatus) { w.Gate.Record = fence.GateBlindOK }),
			writer(func(w *agent.WriterStatus) {
				w.Gate.State, w.Handover = "draining", &agent.HandoverStatus{To: "d1"}
			}),
		},
		Rates: rates.Status{Dir: "/rates", Rates: []rates.Rate{
			{Name: "ship", Unit: rates.BytesPerSecond, Limit: new(int64(0)), Waiting: 2},
			{Name: "capture", Unit: rates.BytesPerSecond, Error: "want bytes"},
			{Name: "admit", Unit: rates.RecordsPerSecond},
		}, Unknown: []string{"shipp"}},
		Pauses: agent.Pauses{Count: 2, Total: 5 * time.Second, Longest: 4 * time.Second, Last: time.Unix(0, 0)},
	}
	_, stdout, _ := ask(t, st)
	want := `agent n1 at east, v1; gate g:7412 answers
STREAM     STATE    EPOCH  LIBRARY  HEAD  DURABLE        EXPOSED     AGE  RELAY  NOTES
bank/main  writing  3      active   900   800 (batch 7)  0 rec, 0 B  0s   w1     -
bank/main  writing  3      active   900   800 (batch 7)  0 rec, 0 B  0s   w1     blocked for 3s; no output lease: a change of writer has begun
bank/main  writing  3      active   900   800 (batch 7)  0 rec, 0 B  0s   w1     DEGRADED on record since batch 12: outputs go on unprotected; opened by hand (ann: DR is down); output lease by the standby nodes, no gate answers
bank/main  writing  3      active   900   800 (batch 7)  0 rec, 0 B  0s   w1     BLIND_OK on record: may go on unprotected without being asked, no zero-loss claim
bank/main  writing  3      active   900   800 (batch 7)  0 rec, 0 B  0s   w1     draining for 0s; handing over to d1
rate ship: 0 bytes/s (stopped), by /rates/ship; 2 waiting
rate capture: file not usable, no limit stays: want bytes
/rates/shipp: no daemon obeys a rate of that name
did not run 2 times, 5s in all, 4s at most, last until 1970-01-01T00:00:00Z
`
	if diff := cmp.Diff(want, stdout); diff != "" {
		t.Error(diff)
	}
}

func TestStatusSurvivesItsJSON(t *testing.T) {
	_, stdout, _ := ask(t, example(), "-o", "json")
	var got agent.Status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), got); diff != "" {
		t.Error(diff)
	}
}

func TestStatusCodeIsNotOKWhenSomethingIsUnknown(t *testing.T) {
	for name, change := range map[string]func(*agent.Status){
		"no gate":          func(s *agent.Status) { s.GateReached = false },
		"stream in error":  func(s *agent.Status) { s.Streams[1].Error = "x" },
		"exposure unknown": func(s *agent.Status) { s.Streams[0].Writer.Exposure = rpo.Exposure{Records: tidegate.Unbounded} },
	} {
		t.Run(name, func(t *testing.T) {
			st := example()
			change(&st)
			if got := codeOf(st); got != cli.UnknownState {
				t.Errorf("got %d", got)
			}
		})
	}
}
