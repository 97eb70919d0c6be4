package client

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/examples/ledger/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target is a ledger without a cluster and without a gate: what it carries out,
// it answers. misbehave may spoil an exchange.
type target struct {
	t     *testing.T
	shelf *book.Shelf
	http.Handler

	mu        sync.Mutex
	exchanges int
}

func (g *target) Submit(context.Context, ledger.Command) (ledger.Outcome, error) {
	return ledger.Outcome{}, errors.New("not reached: target answers commands itself")
}
func (g *target) Leader() (string, bool)          { return "", true }
func (g *target) Follows() bool                   { return false }
func (g *target) Epoch(*book.Book) tidegate.Epoch { return 1 }
func (g *target) Status() api.Status              { return api.Status{} }
func (g *target) Shelf() *book.Shelf              { return g.shelf }

func newTarget(t *testing.T, misbehave bool) (*target, string, *http.Client) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := book.Open(log, book.Config{Dir: t.TempDir(), Service: "ledger", History: "test"})
	if err != nil {
		t.Fatal(err)
	}
	g := &target{t: t, shelf: s}
	g.Handler = server.New(log, g, http.DefaultTransport, server.Config{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			g.post(w, r, misbehave)
			return
		}
		g.ServeHTTP(w, r)
	}))
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		srv.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, srv.URL, &http.Client{Transport: tr}
}

// post carries a command out; if it misbehaves, it refuses some exchanges
// before and cuts some after carrying it out.
func (g *target) post(w http.ResponseWriter, r *http.Request, misbehave bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exchanges++
	if misbehave && g.exchanges%5 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(api.Problem{Reason: api.ReasonNoLeader, Detail: "test"})
		return
	}
	if misbehave && g.exchanges%6 == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		_ = json.NewEncoder(w).Encode(api.Problem{Reason: api.ReasonRejected, Detail: "test", State: "armed/rejecting", RetryAfter: 0.01})
		return
	}
	var body api.Command
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		g.t.Error(err)
	}
	kind := map[string]ledger.Kind{
		api.PathAccounts: ledger.KindOpen, api.PathDeposits: ledger.KindDeposit, api.PathTransfers: ledger.KindTransfer,
	}[r.URL.Path]
	rec := record(g.t, ledger.Command{
		Kind: kind, Currency: body.Currency, Client: body.Client, Request: body.Request,
		From: body.From, To: body.To, Amount: body.Amount,
	})
	b := g.shelf.Book(body.Currency)
	outs, err := b.Append(context.Background(), [][]byte{rec})
	if err != nil {
		g.t.Error(err)
		return
	}
	if misbehave && g.exchanges%7 == 0 {
		panic(http.ErrAbortHandler)
	}
	o := outs[0]
	if o.Code != ledger.Done {
		w.WriteHeader(http.StatusConflict)
	}
	_ = json.NewEncoder(w).Encode(api.Receipt{
		Client: body.Client, Request: body.Request, Currency: body.Currency, Code: o.Code,
		Position: o.First, Next: o.Next, Balance: o.Balance, Duplicate: o.Duplicate,
	})
}

func record(t *testing.T, c ledger.Command) []byte {
	t.Helper()
	rec, err := c.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestLoadSurvivesAFlakyTarget(t *testing.T) {
	g, url, hc := newTarget(t, true)
	acked := filepath.Join(t.TempDir(), "acked")
	l, err := NewLoad(slog.New(slog.DiscardHandler), hc, t.Output(), LoadConfig{
		URL: url, AckedPath: acked, Workers: 4, Accounts: 6, Transfers: 60,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := l.Counts()
	if c.Retried <= c.Rejected || c.Rejected == 0 || c.Acknowledged < 60 {
		t.Errorf("%+v: want 60 acknowledged, some retried, some of these rejected", c)
	}
	rep, err := Check(t.Context(), hc, CheckConfig{URL: url, AckedPath: acked})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Recovered != c.Acknowledged || rep.Acknowledged != c.Acknowledged || rep.Lost != 0 || !rep.Sound {
		t.Errorf("%+v: want %d recovered", rep, c.Acknowledged)
	}
	// Every account was funded once in spite of the retries.
	for _, b := range g.shelf.Books() {
		b.View(func(s *ledger.State) {
			if s.Minted() != 6*1_000_000 {
				t.Errorf("%s: minted %d", b.Currency(), s.Minted())
			}
		})
	}
}

func TestLoadStopsOnAnAnswerThatProvesABug(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"client":"00000000000000000000000000000001","request":1,"currency":"eur","code":"done","position":"0000000000000000","next":"0000000000000000"}`))
	}))
	defer srv.Close()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	l, err := NewLoad(slog.New(slog.DiscardHandler), &http.Client{Transport: tr}, t.Output(), LoadConfig{
		URL: srv.URL, AckedPath: filepath.Join(t.TempDir(), "acked"), Workers: 2, Accounts: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t.Context()); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("a receipt for somebody else was taken: %v", err)
	}
}

func TestLoadStopsWhenAcksCannotBeWritten(t *testing.T) {
	_, url, hc := newTarget(t, false)
	l, err := NewLoad(slog.New(slog.DiscardHandler), hc, t.Output(), LoadConfig{
		URL: url, AckedPath: filepath.Join(t.TempDir(), "missing", "acked"), Workers: 2, Accounts: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestCheckTellsLostFromMoved(t *testing.T) {
	g, url, hc := newTarget(t, false)
	id := ledger.ClientID{9}
	var outs []ledger.Outcome
	for i, c := range []ledger.Command{
		{Kind: ledger.KindOpen, To: "a"},
		{Kind: ledger.KindOpen, To: "b"},
		{Kind: ledger.KindDeposit, To: "a", Amount: 100},
		{Kind: ledger.KindTransfer, From: "a", To: "b", Amount: 1},
		{Kind: ledger.KindTransfer, From: "a", To: "b", Amount: 2},
		{Kind: ledger.KindTransfer, From: "b", To: "a", Amount: 999},
	} {
		c.Currency, c.Client, c.Request = ledger.EUR, id, ledger.Request(i+1)
		// Everything twice: a repeat must not count as a second time.
		o, err := g.shelf.Book(ledger.EUR).Append(t.Context(), [][]byte{record(t, c), record(t, c)})
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, o[0])
	}
	path := filepath.Join(t.TempDir(), "acked")
	var lines []string
	for _, a := range []Ack{
		{Client: id, Request: 4, Currency: ledger.EUR, Position: outs[3].First, Amount: 1, AckedMS: 10},
		{Client: id, Request: 5, Currency: ledger.EUR, Position: outs[4].First + 1, Amount: 2, AckedMS: 20},
		{Client: id, Request: 6, Currency: ledger.EUR, Position: outs[5].First, Amount: 999, AckedMS: 30},
		{Client: id, Request: 7, Currency: ledger.USD, Position: 0, Amount: 3, AckedMS: 40},
	} {
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(b))
	}
	torn := lines[0][:len(lines[0])/2]
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"+torn), 0o600); err != nil {
		t.Fatal(err)
	}
	rep, err := Check(t.Context(), hc, CheckConfig{URL: url, AckedPath: path})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Acknowledged != 4 || rep.Recovered != 1 || rep.Moved != 1 || rep.Lost != 2 || rep.Doubled != 0 ||
		rep.Sound || !rep.TornLine || rep.FirstLostMS != 30 || rep.LastLostMS != 40 || len(rep.LostSample) != 2 {
		t.Errorf("%+v", rep)
	}
	for _, b := range rep.Books {
		if b.Problem != "" || b.Digest != b.Told {
			t.Errorf("%+v", b)
		}
	}
}

func TestCheckSeesADigestThatDiffers(t *testing.T) {
	g, url, hc := newTarget(t, false)
	path := filepath.Join(t.TempDir(), "acked")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rec := record(t, ledger.Command{Kind: ledger.KindOpen, Currency: ledger.USD, Client: ledger.ClientID{1}, Request: 1, To: "a"})
	if _, err := g.shelf.Book(ledger.USD).Append(t.Context(), [][]byte{rec}); err != nil {
		t.Fatal(err)
	}
	lying := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == api.PathDigest && r.URL.Query().Get("currency") == "usd" {
			_ = json.NewEncoder(w).Encode(api.Digest{Currency: ledger.USD, Position: g.shelf.Book(ledger.USD).Position(), Digest: tidegate.Digest{1}})
			return
		}
		g.ServeHTTP(w, r)
	}))
	defer lying.Close()
	for target, sound := range map[string]bool{url: true, lying.URL: false} {
		rep, err := Check(t.Context(), hc, CheckConfig{URL: target, AckedPath: path})
		if err != nil || rep.Sound != sound {
			t.Errorf("%s: sound %t, %v; want %t", target, rep.Sound, err, sound)
		}
	}
	hc.CloseIdleConnections()
}

func TestCheckGivesUpOnASilentTarget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "acked")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	_, err := Check(t.Context(), &http.Client{Transport: &http.Transport{}}, CheckConfig{
		URL: down.URL, AckedPath: path, Within: 50 * time.Millisecond,
	})
	if tidegate.ClassOf(err) != tidegate.Transient {
		t.Errorf("got %v", err)
	}
}

func TestAckFileDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "acked")
	if _, _, err := readAcks(path); tidegate.ClassOf(err) != tidegate.Misuse || tidegate.HintOf(err) == "" {
		t.Errorf("missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("{}\nnonsense\n{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readAcks(path); tidegate.ClassOf(err) != tidegate.Corrupt || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("damaged line: %v", err)
	}
}

func TestLoadConfigNamesEveryMistake(t *testing.T) {
	_, err := NewLoad(nil, nil, nil, LoadConfig{URL: "localhost", Workers: -1, Accounts: 1, Fund: 5, AmountMax: 6, TryTimeout: -1, Progress: -1})
	for _, want := range []string{"url:", "acked:", "workers:", "accounts:", "amount-max:", "try-timeout:", "progress:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not reported in: %v", want, err)
		}
	}
}
