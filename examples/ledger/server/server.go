package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/journal"
)

// Backend is the node behind the interface.
type Backend interface {
	// Submit carries a command out and returns its outcome, not yet released.
	// Its errors are classified: transient ones leave the outcome unknown.
	Submit(ctx context.Context, cmd ledger.Command) (ledger.Outcome, error)
	// Leader returns the URL of the node that takes commands, "" if none is
	// known, and whether that is this one.
	Leader() (url string, self bool)
	// Follows reports that this node follows another site: what it has applied
	// is committed there and may be shown.
	Follows() bool
	// Epoch returns the epoch under which outputs of a book leave now; 0 if unknown.
	Epoch(b *book.Book) tidegate.Epoch
	Status() api.Status
	Shelf() *book.Shelf
}

// Config of the interface.
type Config struct {
	Node        string        // named in forwarded requests
	Timeout     time.Duration // of a command without its own deadline; default 10 s
	TimeoutMax  time.Duration // no command is waited for longer; default 60 s
	InflightMax int           // commands at a time; default 4096
	ChunkBytes  int           // of the journal in one answer, about; default 4 MiB
}

// SetDefaults fills what is zero.
func (c Config) SetDefaults() Config {
	def(&c.Timeout, 10*time.Second)
	def(&c.TimeoutMax, time.Minute)
	def(&c.InflightMax, 4096)
	def(&c.ChunkBytes, 4<<20)
	return c
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Server is the HTTP interface.
type Server struct {
	cfg      Config
	log      *slog.Logger
	backend  Backend
	mux      *http.ServeMux
	proxy    *httputil.ReverseProxy
	inflight chan struct{}
}

// New returns the handler; it does no I/O. rt carries forwarded requests.
func New(log *slog.Logger, backend Backend, rt http.RoundTripper, cfg Config) *Server {
	cfg = cfg.SetDefaults()
	s := &Server{cfg: cfg, log: log, backend: backend, mux: http.NewServeMux(), inflight: make(chan struct{}, cfg.InflightMax)}
	s.proxy = &httputil.ReverseProxy{
		Transport: rt,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(leaderOf(r.In.Context())) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			refuse(w, api.ReasonNoLeader, fmt.Sprintf("the leader did not answer: %v", err))
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.mux.HandleFunc("POST "+api.PathTransfers, s.atLeader(s.command(ledger.KindTransfer)))
	s.mux.HandleFunc("POST "+api.PathDeposits, s.atLeader(s.command(ledger.KindDeposit)))
	s.mux.HandleFunc("POST "+api.PathAccounts, s.atLeader(s.command(ledger.KindOpen)))
	s.mux.HandleFunc("GET "+api.PathTransfer, s.atLeader(s.transfer))
	s.mux.HandleFunc("GET "+api.PathAccount, s.atLeader(s.account))
	s.mux.HandleFunc("GET "+api.PathDigest, s.digest)
	s.mux.HandleFunc("GET "+api.PathJournal, s.journal)
	s.mux.HandleFunc("GET "+api.PathReceipts, s.receipts)
	s.mux.HandleFunc("POST "+api.PathReceipts, s.receipts)
	s.mux.HandleFunc("GET "+api.PathStatus, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, s.backend.Status())
	})
	s.mux.HandleFunc("GET "+api.PathHealth, s.health)
	return s
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

type leaderKey struct{}

// leaderOf returns the URL that atLeader chose; it is in the request's context
// because the leader may change between choosing and rewriting.
func leaderOf(ctx context.Context) *url.URL {
	u, _ := ctx.Value(leaderKey{}).(*url.URL)
	return u
}

// atLeader runs h on the node that leads: here, or by passing the request on.
func (s *Server) atLeader(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.inflight <- struct{}{}:
			defer func() { <-s.inflight }()
		default:
			refuse(w, api.ReasonBusy, fmt.Sprintf("%d requests are in flight", s.cfg.InflightMax))
			return
		}
		timeout := s.cfg.Timeout
		if t, err := time.ParseDuration(r.Header.Get(api.HeaderTimeout)); err == nil && t > 0 {
			timeout = t
		}
		ctx, cancel := context.WithTimeout(r.Context(), min(timeout, s.cfg.TimeoutMax))
		defer cancel()
		r = r.WithContext(ctx)
		leader, self := s.backend.Leader()
		switch {
		case self, s.backend.Follows():
			h(w, r)
		case leader == "", r.Header.Get(api.HeaderForwarded) != "":
			refuse(w, api.ReasonNoLeader, "no node of the cluster leads")
		default:
			u, err := url.Parse(leader)
			if err != nil {
				refuse(w, api.ReasonNoLeader, fmt.Sprintf("leader's url: %v", err))
				return
			}
			r.Header.Set(api.HeaderForwarded, s.cfg.Node)
			s.proxy.ServeHTTP(w, r.WithContext(context.WithValue(ctx, leaderKey{}, u)))
		}
	}
}

// command returns the handler of one kind of command.
func (s *Server) command(kind ledger.Kind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body api.Command
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, api.BodyMax))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&body); err != nil {
			problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
			return
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			problem(w, http.StatusBadRequest, api.ReasonBadRequest, "more than one JSON value")
			return
		}
		cmd := ledger.Command{
			Kind: kind, Currency: body.Currency, Client: body.Client, Request: body.Request,
			Amount: body.Amount, From: body.From, To: body.To,
		}
		if err := errors.Join(cmd.Validate(), validDurability(body.Durability)); err != nil {
			problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
			return
		}
		if s.backend.Follows() {
			refuse(w, api.ReasonNotActive, "this site follows; another one serves")
			return
		}
		out, err := s.backend.Submit(r.Context(), cmd)
		if err != nil {
			s.refuseFor(w, err)
			return
		}
		b := s.backend.Shelf().Book(cmd.Currency)
		if err := b.Release(r.Context(), out.Next, body.Durability); err != nil {
			s.refuseFor(w, err)
			return
		}
		code := http.StatusOK
		if out.Code != ledger.Done {
			code = http.StatusConflict
		}
		answer(w, code, s.receipt(b, cmd.Client, cmd.Request, out))
	}
}

func validDurability(m tidegate.Mode) error {
	switch m {
	case "", tidegate.ModeOpen, tidegate.ModeBounded, tidegate.ModeSync:
		return nil
	}
	return fmt.Errorf("durability %q: want open, bounded or sync", string(m))
}

func (s *Server) receipt(b *book.Book, client ledger.ClientID, request ledger.Request, out ledger.Outcome) api.Receipt {
	return api.Receipt{
		Client: client, Request: request, Currency: b.Currency(), Code: out.Code,
		Position: out.First, Next: out.Next, Balance: out.Balance, Duplicate: out.Duplicate, Epoch: s.backend.Epoch(b),
	}
}

// release holds an answer back until what it depends on may be known. A site
// that follows shows only what is committed anyway.
func (s *Server) release(ctx context.Context, b *book.Book, p tidegate.Position) error {
	if s.backend.Follows() {
		return nil
	}
	return b.Release(ctx, p, "")
}

// transfer answers what became of a request, as far as its window reaches.
func (s *Server) transfer(w http.ResponseWriter, r *http.Request) {
	client, err := tidegate.ParseID(r.PathValue("client"))
	if err != nil {
		problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
		return
	}
	n, err := strconv.ParseUint(r.PathValue("request"), 10, 64)
	if err != nil {
		problem(w, http.StatusBadRequest, api.ReasonBadRequest, fmt.Sprintf("request %q: want a number", r.PathValue("request")))
		return
	}
	forgotten := false
	for _, b := range s.backend.Shelf().Books() {
		var out ledger.Outcome
		var found, gone bool
		b.View(func(st *ledger.State) { out, found, gone = st.Lookup(client, ledger.Request(n)) })
		forgotten = forgotten || gone
		if !found {
			continue
		}
		if err := s.release(r.Context(), b, out.Next); err != nil {
			s.refuseFor(w, err)
			return
		}
		answer(w, http.StatusOK, s.receipt(b, client, ledger.Request(n), out))
		return
	}
	if forgotten {
		problem(w, http.StatusGone, api.ReasonForgotten, "the request left its client's window; the journal still holds it")
		return
	}
	problem(w, http.StatusNotFound, api.ReasonNotFound, "no such request")
}

func (s *Server) account(w http.ResponseWriter, r *http.Request) {
	b, ok := s.book(w, r.PathValue("currency"))
	if !ok {
		return
	}
	a := api.Account{Currency: b.Currency(), ID: ledger.AccountID(r.PathValue("id"))}
	found := false
	b.View(func(st *ledger.State) {
		a.Balance, found = st.Balance(a.ID)
		a.Position = st.Position()
	})
	if err := s.release(r.Context(), b, a.Position); err != nil {
		s.refuseFor(w, err)
		return
	}
	if !found {
		problem(w, http.StatusNotFound, api.ReasonNotFound, "no such account")
		return
	}
	answer(w, http.StatusOK, a)
}

func (s *Server) digest(w http.ResponseWriter, r *http.Request) {
	b, ok := s.book(w, r.URL.Query().Get("currency"))
	if !ok {
		return
	}
	got := b.Digest()
	if text := r.URL.Query().Get("at"); text != "" {
		at, err := tidegate.ParsePosition(text)
		if err != nil {
			problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), s.cfg.TimeoutMax)
		defer cancel()
		switch got, err = b.DigestAt(ctx, at); {
		case errors.Is(err, book.ErrPast):
			problem(w, http.StatusGone, api.ReasonPast, err.Error())
			return
		case errors.Is(err, book.ErrNotABoundary):
			problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
			return
		case err != nil:
			refuse(w, api.ReasonNotReached, fmt.Sprintf("the state is at %s", b.Position()))
			return
		}
	}
	answer(w, http.StatusOK, api.Digest{Currency: b.Currency(), Position: got.Position, Digest: got.Digest})
}

// journal answers raw journal bytes: whole records, verbatim, fsynced here.
func (s *Server) journal(w http.ResponseWriter, r *http.Request) {
	b, ok := s.book(w, r.PathValue("currency"))
	if !ok {
		return
	}
	to := b.Journal().End()
	from, err := tidegate.ParsePosition(r.URL.Query().Get("from"))
	if text := r.URL.Query().Get("to"); err == nil && text != "" {
		to, err = tidegate.ParsePosition(text)
	}
	if err != nil {
		problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
		return
	}
	raw, next, err := b.ReadChunk(r.Context(), from, to, s.cfg.ChunkBytes)
	if err != nil {
		// Most often a position inside a record.
		problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set(api.HeaderNext, next.String())
	w.Header().Set(api.HeaderLineage, string(b.Journal().Lineage()))
	if _, err := w.Write(raw); err != nil {
		s.log.Debug("reader of the journal went away", "err", err)
	}
}

// health says whether commands find their way from here.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	leader, self := s.backend.Leader()
	switch {
	case self, leader != "":
		answer(w, http.StatusOK, map[string]string{"status": "serving"})
	case s.backend.Follows():
		answer(w, http.StatusOK, map[string]string{"status": "following"})
	default:
		refuse(w, api.ReasonNoLeader, "no node of the cluster leads")
	}
}

func (s *Server) book(w http.ResponseWriter, currency string) (*book.Book, bool) {
	c, err := ledger.ParseCurrency(currency)
	if err != nil {
		problem(w, http.StatusBadRequest, api.ReasonBadRequest, err.Error())
		return nil, false
	}
	return s.backend.Shelf().Book(c), true
}

// refuseFor answers an error of Submit or Release. All it can say is 503: what
// became of the command is not known here, or not yet to be told, or it was not
// taken.
func (s *Server) refuseFor(w http.ResponseWriter, err error) {
	if c, ok := errors.AsType[*journal.Closed](err); ok {
		s.log.Debug("command refused by the gate", "err", err)
		refuseClosed(w, c)
		return
	}
	reason := api.ReasonNoLeader
	switch {
	case errors.Is(err, tidegate.ErrFenced):
		reason = api.ReasonFenced
	case errors.Is(err, tidegate.ErrStopped):
		reason = api.ReasonStopped
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		reason = api.ReasonGateClosed
	case errors.Is(err, journal.ErrInactive):
		reason = api.ReasonNotActive
	}
	s.log.Debug("command not answered", "reason", string(reason), "err", err)
	refuse(w, reason, err.Error())
}

// retryAfterSeconds is what a refused client is asked to wait.
const retryAfterSeconds = "1"

func refuse(w http.ResponseWriter, reason api.Reason, detail string) {
	w.Header().Set("Retry-After", retryAfterSeconds)
	problem(w, http.StatusServiceUnavailable, reason, detail)
}

// refuseClosed says how the gate stands, so that a client can do better than
// knock again at once.
func refuseClosed(w http.ResponseWriter, c *journal.Closed) {
	p := api.Problem{
		Reason: api.ReasonRejected, Detail: c.Reason, State: string(c.State),
		Utilisation: c.Utilisation, Exposure: &c.Exposure, RetryAfter: c.RetryAfter.Seconds(),
	}
	if errors.Is(c, tidegate.ErrDraining) {
		p.Reason = api.ReasonDraining
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(c.RetryAfter.Seconds()))))
	answer(w, http.StatusServiceUnavailable, p)
}

func problem(w http.ResponseWriter, status int, reason api.Reason, detail string) {
	answer(w, status, api.Problem{Reason: reason, Detail: detail})
}

func answer(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		// Only a value that no handler makes, an outcome without a code, ends here.
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The connection is gone if this fails; there is nobody left to tell.
	_, _ = w.Write(append(b, '\n'))
}
