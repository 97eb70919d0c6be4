package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/journal"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// devDir is short: socket paths are limited.
func devDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tgdev") //nolint:usetesting // t.TempDir has the test's name in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left of it is only litter
	return dir
}

// freePorts returns a base whose ports nobody has, below those that the kernel
// hands out to clients.
func freePorts(t *testing.T) int {
	t.Helper()
	free := func(base int) bool {
		for i := range devPorts {
			l, err := net.Listen("tcp", devAddr(base, i))
			if err != nil {
				return false
			}
			defer l.Close()
		}
		return true
	}
	for range 100 {
		if base := 10000 + 100*rand.IntN(220); free(base) {
			return base
		}
	}
	t.Fatal("no hundred free ports")
	return 0
}

// startDev runs the program until stop, which returns its exit code and what it
// said on stderr.
func startDev(t *testing.T, args ...string) (view devView, stop func() (cli.Code, string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	var stderr bytes.Buffer
	code := cli.Code(-1)
	var running sync.WaitGroup
	running.Go(func() {
		code = cli.Code(run(ctx, append([]string{"tidegate", "dev", "-o", "json"}, args...), nil, w, &stderr))
		_ = w.Close()
	})
	stop = sync.OnceValues(func() (cli.Code, string) {
		cancel()
		running.Wait()
		return code, stderr.String()
	})
	t.Cleanup(func() { stop() })
	if err := json.NewDecoder(r).Decode(&view); err != nil {
		_, said := stop()
		t.Fatalf("dev ended before it served: %v\n%s", err, said)
	}
	// Anything more that it prints must not hold it up.
	running.Go(func() { _, _ = io.Copy(io.Discard, r) })
	return view, stop
}

// bank is a service that has applied whatever its journal holds.
type bank struct{ j *journal.Journal }

func (b bank) State() (tidegate.Position, tidegate.Digest) {
	return b.j.Durable(), tidegate.Digest{}
}

func (bank) Apply(journal.Record) error { return errors.New("the primary's service does not follow") }

func (bank) Promote(context.Context, tidegate.Epoch, tidegate.Position) error {
	return errors.New("nobody promotes the primary's service")
}
func (bank) Fenced(tidegate.Epoch) {}

// transact opens the journal on the primary node as its service, appends n
// records and returns once the outputs of all may leave.
func transact(t *testing.T, v devView, n int) tidegate.Position {
	t.Helper()
	node, stream := v.Nodes[0], v.Nodes[0].Streams[0]
	j, err := journal.Open(stream.Journal, journal.Config{
		Service: tidegate.ServiceName(v.Service), Stream: tidegate.StreamName(stream.Stream),
		AgentSocket: stream.AgentSocket, Endpoint: node.Endpoint,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	runCtx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	var runErr error
	running.Go(func() { runErr = j.Run(runCtx, bank{j}) })
	defer func() {
		stop()
		running.Wait()
		cancel()
		if err := errors.Join(runErr, j.Close()); err != nil {
			t.Error(err)
		}
	}()
	if err := j.Activate(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r, err := j.Append(ctx, fmt.Appendf(nil, "transfer %d", i), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Await(ctx, r.Next); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	return j.End()
}

// listed is what `streams list -o json` tells of the one stream.
type listed struct {
	ID    string `json:"id"`
	Epoch struct {
		Epoch  string `json:"epoch"`
		Holder struct {
			Node string `json:"node"`
		} `json:"holder"`
	} `json:"epoch"`
	Members []string `json:"members"`
	W       int      `json:"w"`
}

func operatorSays(t *testing.T, v devView, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Code(run(t.Context(), append(append([]string{"tidegate"}, args...), "--config", v.Operator), nil, &stdout, &stderr))
	// A verdict is an answer: without a warm service nobody knows the RTO.
	if code != cli.OK && code < cli.RPOBreached {
		t.Fatalf("%v: exit code %d: %s", args, code, stderr.String())
	}
	return stdout.String()
}

func streamOf(t *testing.T, v devView) listed {
	t.Helper()
	var out struct {
		Streams []listed `json:"streams"`
	}
	text := operatorSays(t, v, "streams", "list", "-o", "json")
	if err := json.Unmarshal([]byte(text), &out); err != nil || len(out.Streams) != 1 {
		t.Fatalf("streams: %v in %s", err, text)
	}
	return out.Streams[0]
}

// holders counts the stopped standby nodes whose logs reach position p.
func holders(t *testing.T, v devView, stream string, p tidegate.Position) int {
	t.Helper()
	id, err := tidegate.ParseID(stream)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, node := range v.Nodes[1:] {
		log, rec, err := deltalog.Open(vfs.OS(), filepath.Join(v.Dir, node.Node, "standby", "streams", stream, "log"), id, deltalog.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if rec.TornBytes != 0 {
			t.Errorf("%s stopped in the middle of a batch: %+v", node.Node, rec)
		}
		tail, err := log.Tail(1)
		if err != nil {
			t.Fatal(err)
		}
		if len(tail) == 1 && tail[0].Next >= p {
			n++
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	return n
}

// TestDev: everything from an empty directory to records that the standby nodes
// hold, and from a stopped directory on.
func TestDev(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	dir := devDir(t)
	v, stop := startDev(t, "--dir", dir, "--port-base", fmt.Sprint(freePorts(t)), "--standbys", "3", "--w", "2", "--mode", "sync")
	end := transact(t, v, 20)
	first := streamOf(t, v)
	if diff := cmp.Diff([]string{"p1", "d1", "d2", "d3"}, first.Members); diff != "" || first.W != 2 || first.Epoch.Epoch != "1" || first.Epoch.Holder.Node != "p1" {
		t.Errorf("stream %+v\n%s", first, diff)
	}
	if text := operatorSays(t, v, "status"); !strings.Contains(text, "service bank") || !strings.Contains(text, "armed") {
		t.Errorf("status:\n%s", text)
	}
	if code, said := stop(); code != cli.OK {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	if n := holders(t, v, first.ID, end); n < 2 {
		t.Errorf("released up to %s, which %d standby nodes hold", end, n)
	}
	made := identities(t, v)

	// Other flags would change half of it.
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"tidegate", "dev", "--dir", dir, "--service", "shop"}, nil, io.Discard, &stderr); cli.Code(code) != cli.Usage ||
		!strings.Contains(stderr.String(), "was made with --service bank, not shop") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}

	again, stop := startDev(t, "--dir", dir)
	if diff := cmp.Diff(v, again, cmpopts.IgnoreUnexported(devNodeView{})); diff != "" {
		t.Error(diff)
	}
	got := transact(t, again, 5)
	if got <= end {
		t.Errorf("journal ends at %s, ended at %s before", got, end)
	}
	restoresFrom(t, again, got, 25)
	if second := streamOf(t, again); second.ID != first.ID || second.Epoch.Epoch != "2" {
		t.Errorf("stream was %+v, is %+v", first, second)
	}
	if code, said := stop(); code != cli.OK {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	if diff := cmp.Diff(made, identities(t, v)); diff != "" {
		t.Errorf("made anew: %s", diff)
	}
}

// restoresFrom restores the stream out of a standby node's log, up to its end, with an
// operator's certificate; a viewer's does not do.
func restoresFrom(t *testing.T, v devView, end tidegate.Position, records uint64) {
	t.Helper()
	node := v.Nodes[1]
	into := filepath.Join(t.TempDir(), "into")
	args := []string{"restore", "--from", node.API, "--service", v.Service, "--into", into, "--to", end.String(), "--recoveries", "none"}
	for until := time.Now().Add(30 * time.Second); ; { // what is committed comes to the node a moment later
		var stdout, stderr bytes.Buffer
		code := cli.Code(run(t.Context(), append(append([]string{"tidegate"}, args...), "--config", v.Operator), nil, &stdout, &stderr))
		if code == cli.OK {
			break
		}
		if code != cli.NotFound || time.Now().After(until) {
			t.Fatalf("restore from %s: exit code %d: %s", node.Node, code, stderr.String())
		}
	}
	j, err := journal.Open(filepath.Join(into, "journal"), journal.Config{Service: tidegate.ServiceName(v.Service), Stream: tidegate.StreamName(node.Streams[0].Stream)})
	if err != nil {
		t.Fatal(err)
	}
	if j.End() != end || j.Records() != records {
		t.Errorf("restored are %d records up to %s, want %d up to %s", j.Records(), j.End(), records, end)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(into + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind are %q, %v", left, err)
	}
	var seen bytes.Buffer
	for _, args := range [][]string{{"window"}, {"where", "--service", v.Service, "latest"}, {"restore", "--service", v.Service, "--into", into + "3", "--dry-run"}} {
		args = append([]string{"tidegate", args[0], "--from", node.API, "--config", v.Operator}, args[1:]...)
		if code := run(t.Context(), args, nil, &seen, &seen); code != 0 {
			t.Errorf("%v: exit code %d: %s", args, code, seen.String())
		}
	}
	says(t, seen.String(), "  yes ", "restored from: the log's beginning", "log: batches 1 to")
	viewer := filepath.Join(t.TempDir(), "viewer.yaml")
	pki := t.TempDir() // the site's own stays as it is
	for _, name := range []string{"ca.crt", "ca.key"} {
		text, err := os.ReadFile(filepath.Join(v.Dir, "pki", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(pki, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if code := run(t.Context(), []string{"tidegate", "dev", "pki", "--dir", pki, "--cluster", devCluster, "--identity", "west/viewer/vic"}, nil, io.Discard, io.Discard); code != 0 {
		t.Fatalf("make a viewer: exit code %d", code)
	}
	text := fmt.Sprintf("gates: [%s]\ntls: {ca: %s/ca.crt, cert: %s/west-viewer-vic.crt, key: %s/west-viewer-vic.key}\n", v.Gate, pki, pki, pki)
	if err := os.WriteFile(viewer, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	code := cli.Code(run(t.Context(), []string{"tidegate", "restore", "--from", node.API, "--service", v.Service, "--into", into + "2", "--config", viewer}, nil, &stdout, &stderr))
	if code != cli.Auth || !strings.Contains(stderr.String(), "role viewer may not attach") {
		t.Errorf("a viewer: exit code %d: %s", code, stderr.String())
	}
}

// identities are the files that a second start must not touch.
func identities(t *testing.T, v devView) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, pattern := range []string{"*.yaml", "*/*.yaml", "pki/*"} {
		paths, err := filepath.Glob(filepath.Join(v.Dir, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			files[p] = string(b)
		}
	}
	for _, n := range v.Nodes[1:] {
		b, err := os.ReadFile(filepath.Join(v.Dir, n.Node, "standby", "node.json"))
		if err != nil {
			t.Fatal(err)
		}
		var node struct{ Incarnation string }
		if err := json.Unmarshal(b, &node); err != nil || node.Incarnation == "" {
			t.Fatalf("node.json %s: %v", b, err)
		}
		files[n.Node] = node.Incarnation
	}
	return files
}

func TestDevNamesThePortsInUse(t *testing.T) {
	dir, base := devDir(t), freePorts(t)
	for _, port := range []int{12, 24} {
		l, err := net.Listen("tcp", devAddr(base, port))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	var stdout, stderr bytes.Buffer
	code := cli.Code(run(t.Context(), []string{"tidegate", "dev", "--dir", dir, "--port-base", fmt.Sprint(base)}, nil, &stdout, &stderr))
	for _, want := range []string{
		fmt.Sprintf("port %d of the gate is in use", base+12), fmt.Sprintf("port %d of standby node d2, API is in use", base+24), "hint: ", "--port-base",
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("want %q in %s", want, stderr.String())
		}
	}
	if code != cli.Usage || stdout.Len() > 0 {
		t.Errorf("exit code %d, stdout %q", code, stdout.String())
	}
	// The files are good for the roles' own commands.
	for _, args := range [][]string{{"gate", "gate.yaml"}, {"route", "route.yaml"}, {"operator", "operator.yaml"}, {"standby", "d3/standby.yaml"}} {
		stderr.Reset()
		if code := run(t.Context(), []string{"tidegate", "check-config", args[0], filepath.Join(dir, args[1])}, nil, io.Discard, &stderr); code != 0 {
			t.Errorf("check-config %v: exit code %d: %s", args, code, stderr.String())
		}
	}
}

func TestDevShowsHowToStartTheLedger(t *testing.T) {
	s := &devSite{fs: vfs.OS(), plan: devPlan{Dir: devDir(t) + "/it's", PortBase: 7400, Service: "ledger", Streams: []string{"eur", "usd"}, Standbys: 1, W: 1, Gate: modeChoice{Mode: "open"}}}
	s, err := openDevSite(s.fs, s.plan)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.view().write(&b); err != nil {
		t.Fatal(err)
	}
	quoted := `'` + strings.ReplaceAll(s.path(), "'", `'\''`)
	for _, want := range []string{
		"service ledger: gate 127.0.0.1:7412, clients 127.0.0.1:7416\n",
		"tidegate status --config " + quoted + "/operator.yaml'\n",
		"ledger node --name p1 --service ledger --data " + quoted + "/p1/ledger' --http 127.0.0.1:7408 --run " + quoted + "/p1/run' --return --peer p1=127.0.0.1:7409,127.0.0.1:7408\n",
		"ledger follow --name d1 --service ledger --data " + quoted + "/d1/ledger' --http 127.0.0.1:7418 --run " + quoted + "/d1/run' --raft 127.0.0.1:7419\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("want %q in\n%s", want, b.String())
		}
	}
}
