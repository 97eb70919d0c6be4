package cluster

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

var update = flag.Bool("update", false, "rewrite the golden files of the newest version")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func shelf(tb testing.TB, dir string) *book.Shelf {
	tb.Helper()
	s, err := book.Open(slog.New(slog.DiscardHandler), book.Config{Dir: dir, Service: "ledger", History: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return s
}

// opens are commands that open n accounts.
func opens(tb testing.TB, c ledger.Currency, n int) [][]byte {
	tb.Helper()
	var out [][]byte
	for i := range n {
		cmd := ledger.Command{
			Kind: ledger.KindOpen, Currency: c, TimeUnix: int64(i + 1), Client: ledger.ClientID{1},
			Request: ledger.Request(i + 1), To: ledger.AccountID(fmt.Sprintf("a-%d", i)),
		}
		rec, err := cmd.Append(nil)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

func filled(tb testing.TB, n int) *book.Shelf {
	tb.Helper()
	s := shelf(tb, tb.TempDir())
	for _, b := range s.Books() {
		if _, err := b.Append(tb.Context(), opens(tb, b.Currency(), n)); err != nil {
			tb.Fatal(err)
		}
	}
	return s
}

func TestSnapshotRoundTrip(t *testing.T) {
	s := filled(t, 20)
	states, err := parseBooks(encodeBooks(s))
	if err != nil {
		t.Fatal(err)
	}
	if len(states) != len(s.Books()) {
		t.Fatalf("%d states of %d books", len(states), len(s.Books()))
	}
	for i, b := range s.Books() {
		if got, want := states[i].Digest(), b.Digest().Digest; got != want {
			t.Errorf("%s: digest %s, want %s", b.Currency(), got, want)
		}
	}
}

func TestSnapshotDamage(t *testing.T) {
	whole := encodeBooks(filled(t, 3))
	twice := bytes.Clone(whole[:8])
	one := whole[8 : 8+(len(whole)-8)/2]
	twice = append(append(twice, one...), one...)
	newer := bytes.Clone(whole)
	newer[4] = 9
	for name, b := range map[string][]byte{
		"empty": nil, "magic": append([]byte("XXXX"), whole[4:]...), "version": newer,
		"junk behind": append(bytes.Clone(whole), 0), "two of one currency": twice,
	} {
		if _, err := parseBooks(b); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range whole {
		if _, err := parseBooks(whole[:n]); tidegate.ClassOf(err) != tidegate.Corrupt {
			t.Fatalf("%d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func FuzzParseBooks(f *testing.F) {
	f.Add(encodeBooks(filled(f, 3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if states, err := parseBooks(b); err == nil && len(states) > len(ledger.Currencies()) {
			t.Fatalf("%d states", len(states))
		}
	})
}

// TestGoldenSnapshot keeps the container's version 1 readable for ever.
func TestGoldenSnapshot(t *testing.T) {
	path := filepath.Join("testdata", "v1", "books.bin")
	got := encodeBooks(filled(t, 5))
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("bytes changed; a change of format needs a new version")
	}
	if _, err := parseBooks(want); err != nil {
		t.Error(err)
	}
}

// peerServer answers /journal from a shelf, through spoil.
func peerServer(t *testing.T, s *book.Shelf, spoil func(raw []byte, head http.Header) []byte) Peer {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := ledger.ParseCurrency(strings.TrimPrefix(r.URL.Path, "/journal/"))
		if err != nil {
			t.Error(err)
		}
		from, err1 := tidegate.ParsePosition(r.URL.Query().Get("from"))
		to, err2 := tidegate.ParsePosition(r.URL.Query().Get("to"))
		raw, next, err3 := s.Book(c).ReadChunk(r.Context(), from, to, 200)
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Error(err)
		}
		w.Header().Set(api.HeaderNext, next.String())
		_, _ = w.Write(spoil(raw, w.Header()))
	}))
	t.Cleanup(srv.Close)
	return Peer{Node: "peer", HTTP: srv.URL}
}

func honest(raw []byte, _ http.Header) []byte { return raw }

func fetch(t *testing.T, peers ...Peer) *fetcher {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &fetcher{log: testLog(t), http: &http.Client{Transport: tr}, peers: peers}
}

func TestFetchGoesPastBadPeers(t *testing.T) {
	source := filled(t, 50)
	down := httptest.NewServer(http.NotFoundHandler())
	gone := Peer{Node: "gone", HTTP: down.URL}
	down.Close()
	bad := map[string]func([]byte, http.Header) []byte{
		"flipped bit": func(raw []byte, _ http.Header) []byte {
			raw[len(raw)/2] ^= 1
			return raw
		},
		"cut":     func(raw []byte, _ http.Header) []byte { return raw[:len(raw)-1] },
		"nothing": func([]byte, http.Header) []byte { return nil },
		"says more than it sends": func(raw []byte, h http.Header) []byte {
			h.Set(api.HeaderNext, tidegate.Position(1<<20).String())
			return raw
		},
	}
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			b := shelf(t, t.TempDir()).Book(ledger.EUR)
			to := source.Book(ledger.EUR).Journal().End()
			if err := fetch(t, peerServer(t, source, spoil)).fillFrom(t.Context(), peerServer(t, source, spoil), b, to); err == nil {
				t.Fatal("bad bytes were taken")
			}
			if end := b.Journal().End(); end != 0 {
				t.Fatalf("%s bytes of a bad answer were appended", end)
			}
			f := fetch(t, gone, peerServer(t, source, spoil), peerServer(t, source, honest))
			if err := f.fill(t.Context(), b, to); err != nil {
				t.Fatal(err)
			}
			if b.Journal().Durable() != to {
				t.Errorf("durable up to %s, want %s", b.Journal().Durable(), to)
			}
			if err := b.Replay(); err != nil {
				t.Fatal(err)
			}
			if got, want := b.Digest(), source.Book(ledger.EUR).Digest(); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestFetchWithoutPeersSaysSo(t *testing.T) {
	b := shelf(t, t.TempDir()).Book(ledger.USD)
	if err := fetch(t).fill(t.Context(), b, 100); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("got %v, want a gap", err)
	}
}

func TestInstallNeverLeavesAHole(t *testing.T) {
	source := filled(t, 10)
	b := shelf(t, t.TempDir()).Book(ledger.EUR)
	states, err := parseBooks(encodeBooks(source))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Install(states[0]); !errors.Is(err, tidegate.ErrGap) {
		t.Errorf("a state beyond the journal was installed: %v", err)
	}
	if err := b.Install(states[1]); tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("a state of another currency was installed: %v", err)
	}
}

func TestSeed(t *testing.T) {
	dir := t.TempDir()
	if ok, err := Exists(dir); ok || err != nil {
		t.Fatalf("before: %v, %v", ok, err)
	}
	s := filled(t, 5)
	// A second attempt after a crash in the first is harmless.
	for range 2 {
		c, err := New(testLog(t), s, nil, Config{Dir: dir, Self: "d1", Peers: []Peer{{Node: "d1", Raft: "127.0.0.1:1"}}})
		if err != nil {
			t.Fatal(err)
		}
		if c.raftConfig().NoSnapshotRestoreOnStart {
			t.Error("what raft's snapshot holds would not be read")
		}
		if err := c.Seed(); err != nil {
			t.Fatal(err)
		}
		if !c.raftConfig().NoSnapshotRestoreOnStart {
			t.Error("what has just been written would be read back, while clients wait")
		}
	}
	if ok, err := Exists(dir); !ok || err != nil {
		t.Fatalf("after: %v, %v", ok, err)
	}
	bolt, snapshots, err := openStores(testLog(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer bolt.Close()
	list, err := snapshots.List()
	if err != nil || len(list) == 0 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	_, rc, err := snapshots.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, encodeBooks(s)) {
		t.Error("the seed is not the books")
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	_, err := New(testLog(t), nil, nil, Config{
		Self: "p9", Heartbeat: time.Nanosecond, BatchEntriesMax: -1,
		Peers: []Peer{{Node: "P1", Raft: "nowhere"}, {Node: "p2", Raft: "h:1"}, {Node: "p2", Raft: "h:2"}},
	})
	for _, want := range []string{"dir:", "peers[0].node", "peers[0].raft", "peers[2].node", "self:", "heartbeat:", "batch-entries-max:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not reported in: %v", want, err)
		}
	}
	if tidegate.ClassOf(err) != tidegate.Misuse {
		t.Errorf("class %s", tidegate.ClassOf(err))
	}
}
