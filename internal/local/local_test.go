package local

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/wire"
)

var update = flag.Bool("update", false, "rewrite the golden bytes")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// samples is one message of each type with no field zero.
func samples() []Message {
	none := int64(tidegate.Unbounded)
	return []Message{
		&Hello{
			VersionMin: 1, VersionMax: 2, Service: "ledger", Stream: "main", Kind: KindJournal, Dir: "/var/lib/ledger/journal",
			Lineage: "journal:01", End: 4711, Endpoint: "10.0.0.1:8080", Generation: 3, Rest: true, Warm: true,
		},
		&Welcome{Version: 1, Daemon: DaemonStandby, Node: "dr-1"},
		&Refusal{Class: tidegate.Misuse, Text: "unknown stream", Hint: "add it"},
		&Activated{Lineage: "journal:01+7@0000000000000010", L: 99},
		&Deactivated{},
		&LibraryProgress{
			L: Count{5, 2, 5}, A: Count{4, 1, 4}, AKnown: true, T0: 123, Released: 124, End: 9,
			Applied: 3, Digest: tidegate.Digest{1}, DigestAt: 2,
			Gate: machine.Rejecting, Since: 5, Want: machine.WantDegraded, Grant: 6, Utilisation: 0.75, Rejected: 8,
			Drained: true, Slack: 9, Room: 11,
		},
		&Role{State: StateActive, Epoch: 7, Holder: tidegate.HolderID{2}, ApplyTo: 10, Branch: 10, Lineage: "journal:01", Generation: 3, Source: SourceHandsOver},
		&DaemonProgress{
			D: 8, DKnown: true, Epoch: 7, Mode: tidegate.ModeBounded, Bounds: tidegate.Bounds{Records: 1, Bytes: 2, Window: 3}, Recorded: true,
			Grant: 4, Record: machine.RecordDegraded, Policy: tidegate.Policy{Reaction: tidegate.ReactDegrade, Grace: 5, Rearm: 6}, Brake: true,
			LeaseNeeded: true, LeaseUntil: 7, Drain: true, HandedOver: true, RateLimited: true, Rate: 9, Applied: 6,
		},
		&DaemonProgress{Epoch: 7, Mode: tidegate.ModeOpen, Bounds: tidegate.Bounds{Records: none, Bytes: none, Window: tidegate.Unbounded}},
		&Batch{Epoch: 7, Seq: 3, First: 100, Next: 103, Records: 1, Payload: []byte("abc")},
		&Rewind{To: 100, Epoch: 8},
		&Finding{Severity: SeverityCritical, Class: tidegate.Permanent, Text: "no base", Hint: "seed the node"},
		&Finding{Name: "slot-holds", Severity: SeverityWarning, Class: tidegate.Permanent, Text: "8 GiB of log", Hint: "look at the other site"},
		&Finding{Name: "slot-holds"},
		&Feedback{Node: "dr-1", Opaque: "\x00opaque"},
		&Feedback{},
		&Snapshots{Empty: true},
		&SnapshotAsk{},
		&Snapshot{Position: 100, Records: 3, Digest: tidegate.Digest{4}, Size: 5, Lineage: "journal:01+7@0000000000000010"},
		&Snapshot{Class: tidegate.Transient, Text: "the service is active", Hint: "wait"},
		&SnapshotRead{Position: 100, Offset: 4, Bytes: PartMax},
		&SnapshotPart{Position: 100, Offset: 4, Payload: []byte("x")},
	}
}

func TestGoldenBytes(t *testing.T) {
	var text bytes.Buffer
	for _, m := range samples() {
		fmt.Fprintf(&text, "%T\n%s", m, hex.Dump(Append(nil, m)))
	}
	path := filepath.Join("testdata", "v1", "messages.txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), text.String()); d != "" {
		t.Error(d)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	for _, m := range samples() {
		body := m.appendTo(nil)
		got, err := Decode(m.wireType(), body)
		if err != nil {
			t.Fatalf("%T: %v", m, err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Errorf("%T: %s", m, d)
		}
		if _, err := Decode(m.wireType(), append(bytes.Clone(body), 0)); err == nil {
			t.Errorf("%T: a trailing byte was accepted", m)
		}
		for n := range body {
			if _, err := Decode(m.wireType(), body[:n]); err == nil {
				t.Errorf("%T cut to %d of %d bytes was accepted", m, n, len(body))
			}
		}
	}
	if _, err := Decode(99, nil); !errors.Is(err, tidegate.ErrUnsupported) {
		t.Errorf("unknown type: %v", err)
	}
	for name, m := range map[string]Message{
		"bounds looser than the mode": &DaemonProgress{Mode: tidegate.ModeSync, Bounds: tidegate.Bounds{Records: 1}},
		"unknown mode":                &DaemonProgress{Mode: "ajar"},
		"negative bound":              &DaemonProgress{Mode: tidegate.ModeBounded, Bounds: tidegate.Bounds{Bytes: -1}},
		"state":                       &Role{State: 9},
		"source":                      &Role{State: StateIdle, Source: 9},
		"policy":                      &DaemonProgress{Policy: tidegate.Policy{Reaction: "panic"}, Mode: tidegate.ModeSync},
		"record":                      &DaemonProgress{Record: 9, Mode: tidegate.ModeSync},
		"handed over, not draining":   &DaemonProgress{HandedOver: true, Mode: tidegate.ModeSync},
		"applied beyond D":            &DaemonProgress{D: 1, DKnown: true, Applied: 2, Mode: tidegate.ModeSync},
		"feedback's node":             &Feedback{Node: "../x"},
		"feedback's length":           &Feedback{Opaque: strings.Repeat("x", tidegate.FeedbackMax+1)},
		"rate without a limit":        &DaemonProgress{Rate: 1, Mode: tidegate.ModeSync},
		"gate state":                  &LibraryProgress{Gate: 99},
		"want":                        &LibraryProgress{Want: 9},
		"utilisation":                 &LibraryProgress{Utilisation: math.NaN()},
		"negative slack":              &LibraryProgress{Slack: -1},
		"service name":                &Hello{VersionMin: 1, VersionMax: 1, Service: "../x", Stream: "s"},
		"versions":                    &Hello{VersionMin: 2, VersionMax: 1, Service: "s", Stream: "s"},
		"part of nothing":             &SnapshotPart{Position: 1},
		"read of nothing":             &SnapshotRead{Position: 1},
		"read of too much":            &SnapshotRead{Bytes: PartMax + 1},
		"batch range":                 &Batch{First: 1, Next: 9, Payload: []byte("x")},
	} {
		if _, err := Decode(m.wireType(), m.appendTo(nil)); !errors.Is(err, wire.ErrMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		f.Add(uint8(m.wireType()), m.appendTo(nil))
	}
	f.Fuzz(func(t *testing.T, typ uint8, body []byte) {
		m, err := Decode(wire.Type(typ), body)
		if err != nil {
			return
		}
		if again := m.appendTo(nil); !bytes.Equal(again, body) {
			t.Fatalf("%T: % x read back as % x", m, body, again)
		}
	})
}

func TestDocumentListsEveryMessage(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "formats", "local.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range samples() {
		row := fmt.Sprintf("| %d | %s |", m.wireType(), strings.TrimPrefix(fmt.Sprintf("%T", m), "*local."))
		if !bytes.Contains(doc, []byte(row)) {
			t.Errorf("docs/formats/local.md has no row %q", row)
		}
	}
}

// meet serves one connection with check while f dials.
func meet(t *testing.T, check func(Hello) error, dial func(path string) (*Conn, Welcome, error)) (*Conn, Welcome, error, *Conn, Hello, error) {
	t.Helper()
	l, err := Listen(filepath.Join(t.TempDir(), "run", "s.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var (
		wg     sync.WaitGroup
		server *Conn
		hello  Hello
		srvErr error
	)
	wg.Go(func() {
		if server, srvErr = l.Accept(); srvErr == nil {
			hello, srvErr = server.Serve(t.Context(), Welcome{Daemon: DaemonAgent, Node: "n1"}, check)
		}
	})
	client, welcome, err := dial(l.Addr())
	wg.Wait()
	return client, welcome, err, server, hello, srvErr
}

var hello = Hello{Service: "ledger", Stream: "main", Kind: KindJournal, Dir: "/d", Lineage: "journal:01"}

func dialHello(t *testing.T, h Hello) func(string) (*Conn, Welcome, error) {
	t.Helper()
	return func(path string) (*Conn, Welcome, error) { return Dial(t.Context(), path, h) }
}

func TestSession(t *testing.T) {
	c, w, err, s, h, srvErr := meet(t, nil, dialHello(t, hello))
	if err != nil || srvErr != nil {
		t.Fatal(err, srvErr)
	}
	defer c.Close()
	if w.Node != "n1" || w.Version != VersionMax || h.Service != "ledger" {
		t.Errorf("welcome %+v, hello %+v", w, h)
	}
	for _, m := range samples()[3:] {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
		got, err := c.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Error(d)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the peer closed: %v", err)
	}
	if err := s.Send(&Deactivated{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after close: %v", err)
	}
}

func TestRefusalKeepsItsClass(t *testing.T) {
	check := func(Hello) error {
		return &tidegate.Error{Op: "open stream", Subject: "main", Class: tidegate.Fenced, Hint: "look", Err: tidegate.ErrFenced}
	}
	_, _, err, _, _, srvErr := meet(t, check, dialHello(t, hello))
	if !errors.Is(err, tidegate.ErrFenced) || tidegate.ClassOf(err) != tidegate.Fenced || tidegate.HintOf(err) != "look" {
		t.Errorf("library got %v (%s)", err, tidegate.ClassOf(err))
	}
	if !errors.Is(srvErr, tidegate.ErrFenced) {
		t.Errorf("daemon got %v", srvErr)
	}
}

func TestFindingIsAnError(t *testing.T) {
	err := &tidegate.Error{Op: "restore", Class: tidegate.Permanent, Hint: "seed", Err: errors.New("no base")}
	got := FindingOf(err).Err()
	if tidegate.ClassOf(got) != tidegate.Permanent || tidegate.HintOf(got) != "seed" || !strings.Contains(got.Error(), "no base") {
		t.Errorf("%v", got)
	}
	if err := FindingOf(nil).Err(); err != nil {
		t.Errorf("nothing found: %v", err)
	}
}

func TestUnknownVersionAndKindAreRefused(t *testing.T) {
	other := hello
	other.Kind = "tape"
	check := func(h Hello) error { return h.CheckKind(KindJournal) }
	if _, _, err, _, _, srvErr := meet(t, check, dialHello(t, other)); tidegate.ClassOf(err) != tidegate.Misuse || !errors.Is(srvErr, tidegate.ErrUnsupported) {
		t.Errorf("kind: %v, %v", err, srvErr)
	}
	promoted := hello
	promoted.Lineage += "+" + tidegate.Lineage(tidegate.EpochDrillFirst.String()) + "@0000000000000010"
	if _, _, err, _, _, _ := meet(t, check, dialHello(t, promoted)); tidegate.ClassOf(err) != tidegate.Refused {
		t.Errorf("promoted by a drill: %v", err)
	}
	future := func(path string) (*Conn, Welcome, error) {
		nc, err := net.Dial("unix", path)
		if err != nil {
			return nil, Welcome{}, err
		}
		c := NewConn(nc)
		defer c.Close()
		h := hello
		h.VersionMin, h.VersionMax = VersionMax+1, VersionMax+3
		if err := c.Send(&h); err != nil {
			return nil, Welcome{}, err
		}
		_, err = c.Recv()
		return nil, Welcome{}, err
	}
	if _, _, err, _, _, srvErr := meet(t, nil, future); err == nil || !errors.Is(srvErr, tidegate.ErrUnsupported) {
		t.Errorf("version: %v, %v", err, srvErr)
	}
}

func TestListenTakesOnlyADeadSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatalf("a dead socket was not replaced: %v", err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("a live socket: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); !errors.Is(err, tidegate.ErrConflict) {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Error("the file was touched")
	}
}

func TestDialNobody(t *testing.T) {
	_, _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none"), hello)
	if tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("%v is %s", err, tidegate.ClassOf(err))
	}
}
