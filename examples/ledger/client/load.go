package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/retry"
)

// LoadConfig configures a [Load].
type LoadConfig struct {
	URL        string            // of the route or of any node: http://host:port
	AckedPath  string            // the ack file; appended to
	Workers    int               // transfers in flight
	Accounts   int               // per currency, opened and funded first
	Fund       ledger.Amount     // deposited into each account, in the smallest unit
	AmountMax  ledger.Amount     // of one transfer
	Transfers  uint64            // acknowledged or refused transfers after which to end; 0 for until ctx ends
	Duration   time.Duration     // of transferring, after which to end; 0 for until ctx ends
	TryTimeout time.Duration     // one HTTP exchange; then the same request is sent again
	Progress   time.Duration     // between progress reports
	Currencies []ledger.Currency // workers are dealt over them
	Durability tidegate.Mode     // asked for each transfer; empty: the stream's
	Seed       uint64            // of the amounts and accounts; client ids are always random
}

// SetDefaults fills what is zero.
func (c LoadConfig) SetDefaults() LoadConfig {
	def(&c.Workers, 16)
	def(&c.Accounts, 200)
	def(&c.Fund, 1_000_000)
	def(&c.AmountMax, 100)
	// Longer than an election, shorter than an operator's patience: a frozen
	// primary holds every connection open and answers nothing.
	def(&c.TryTimeout, 2*time.Second)
	def(&c.Progress, time.Second)
	if len(c.Currencies) == 0 {
		c.Currencies = ledger.Currencies()
	}
	return c
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Validate reports every broken rule.
func (c LoadConfig) Validate() error {
	var errs []error
	rule := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if err := validURL(c.URL); err != nil {
		errs = append(errs, err)
	}
	rule(c.AckedPath != "", "acked: want a file name")
	rule(c.Workers >= 1 && c.Workers <= 4096, "workers: want 1 to 4096 (got %d)", c.Workers)
	rule(c.Accounts >= 2 && c.Accounts <= ledger.AccountsMax, "accounts: want 2 to %d (got %d)", ledger.AccountsMax, c.Accounts)
	rule(c.AmountMax >= 1 && c.AmountMax <= c.Fund, "amount-max: want 1 to fund %d (got %d)", c.Fund, c.AmountMax)
	rule(c.TryTimeout > 0, "try-timeout: want above 0 (got %s)", c.TryTimeout)
	_, err := c.Durability.Bounds(tidegate.Bounds{})
	rule(c.Durability == "" || err == nil, "durability: want open, bounded or sync (got %q)", string(c.Durability))
	rule(c.Progress > 0, "progress: want above 0 (got %s)", c.Progress)
	return errors.Join(errs...)
}

func validURL(s string) error {
	if u, err := url.Parse(s); err != nil || u.Host == "" || u.Path != "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("url: want http://host:port (got %q)", s)
	}
	return nil
}

// Counts is what a load has seen so far.
type Counts struct {
	Acknowledged  uint64        `json:"acknowledged"`
	Refused       uint64        `json:"refused"`  // by a rule of the ledger: overdrafts
	Retried       uint64        `json:"retried"`  // exchanges that ended without an outcome
	Rejected      uint64        `json:"rejected"` // of these, refused at once by a gate that was closed or draining
	Silence       time.Duration `json:"silence_ns"`
	SilenceBefore time.Time     `json:"silence_before"` // when the longest silence ended
	Elapsed       time.Duration `json:"elapsed_ns"`
}

// Load transfers money until told to stop and writes down what was acknowledged.
type Load struct {
	cfg  LoadConfig
	log  *slog.Logger
	http *http.Client
	out  io.Writer
	acks ackFile
	over atomic.Bool // no new transfers

	mu      sync.Mutex
	counts  Counts
	started time.Time
	lastAck time.Time
	reason  string // of the last exchange without outcome, for the progress line
}

// NewLoad returns a load that prints progress lines to out. It does no I/O.
func NewLoad(log *slog.Logger, hc *http.Client, out io.Writer, cfg LoadConfig) (*Load, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "configure load", Class: tidegate.Misuse, Err: err}
	}
	return &Load{
		cfg: cfg, log: log, http: hc, out: out,
		acks: ackFile{path: cfg.AckedPath, queue: make(chan Ack, acksBuffered), failed: make(chan struct{})},
	}, nil
}

// Counts returns what was seen so far; safe to call at any time.
func (l *Load) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts
	if !l.started.IsZero() {
		c.Elapsed = time.Since(l.started)
		if quiet := time.Since(l.lastAck); quiet > c.Silence {
			c.Silence, c.SilenceBefore = quiet, time.Now()
		}
	}
	return c
}

// Run opens and funds the accounts, then transfers until ctx ends or
// cfg.Transfers are done. It returns nil then, and an error if an answer proves
// the ledger or this client wrong.
func (l *Load) Run(ctx context.Context) error {
	var files errgroup.Group
	files.Go(l.acks.write)
	err := l.work(ctx)
	close(l.acks.queue)
	if werr := files.Wait(); werr != nil {
		return werr
	}
	if err != nil && ctx.Err() != nil {
		err = nil
	}
	l.print("done")
	return err
}

func (l *Load) work(ctx context.Context) error {
	if err := l.each(ctx, l.fund); err != nil {
		return err
	}
	l.mu.Lock()
	l.started = time.Now()
	l.lastAck = l.started
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var side errgroup.Group
	side.Go(func() error { l.report(ctx); return nil })
	if l.cfg.Duration > 0 {
		side.Go(func() error { l.endAfter(ctx, l.cfg.Duration); return nil })
	}
	err := l.each(ctx, l.transfer)
	cancel()
	return errors.Join(err, side.Wait())
}

// each runs one worker's part on every worker and returns the first error.
func (l *Load) each(ctx context.Context, part func(context.Context, *worker) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range l.cfg.Workers {
		w := &worker{
			load: l, index: i, id: tidegate.NewID(),
			currency: l.cfg.Currencies[i%len(l.cfg.Currencies)],
			rand:     rand.New(rand.NewPCG(l.cfg.Seed, uint64(i))),
		}
		g.Go(func() error { return part(ctx, w) })
	}
	return g.Wait()
}

func (l *Load) report(ctx context.Context) {
	t := time.NewTicker(l.cfg.Progress)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			l.print("load")
		}
	}
}

func (l *Load) print(what string) {
	c := l.Counts()
	l.mu.Lock()
	quiet, reason := time.Since(l.lastAck), l.reason
	l.mu.Unlock()
	line := fmt.Sprintf("%s %5.0fs  acknowledged %d  refused %d  retried %d  %.0f/s  longest silence %s",
		what, c.Elapsed.Seconds(), c.Acknowledged, c.Refused, c.Retried,
		float64(c.Acknowledged)/max(c.Elapsed.Seconds(), 0.001), c.Silence.Round(time.Millisecond))
	if quiet > l.cfg.Progress && what != "done" {
		line += fmt.Sprintf("  waiting %s: %s", quiet.Round(100*time.Millisecond), reason)
	}
	// Progress that cannot be shown must not stop the load.
	_, _ = fmt.Fprintln(l.out, line)
}

// worker is one client of the ledger: it has one request in flight.
type worker struct {
	load     *Load
	index    int
	id       ledger.ClientID
	next     ledger.Request
	currency ledger.Currency
	rand     *rand.Rand
}

func accountName(i int) ledger.AccountID { return ledger.AccountID(fmt.Sprintf("acct-%05d", i)) }

// fund opens and funds a worker's share of the accounts of each currency.
func (l *Load) fund(ctx context.Context, w *worker) error {
	for i := w.index; i < l.cfg.Accounts; i += l.cfg.Workers {
		for _, cur := range l.cfg.Currencies {
			open := api.Command{Currency: cur, To: accountName(i)}
			if _, err := w.do(ctx, api.PathAccounts, open, ledger.Done, ledger.AccountExists); err != nil {
				return err
			}
			deposit := api.Command{Currency: cur, To: accountName(i), Amount: l.cfg.Fund}
			if _, err := w.do(ctx, api.PathDeposits, deposit, ledger.Done, ledger.MintExhausted); err != nil {
				return err
			}
		}
	}
	return nil
}

// endAfter asks the workers to end after what they have in flight.
func (l *Load) endAfter(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
		l.over.Store(true)
	}
}

// transfer moves money until the load is over. A load that ends by itself waits
// for the outcome of what is in flight; one that is cut off does not.
func (l *Load) transfer(ctx context.Context, w *worker) error {
	for ctx.Err() == nil && !l.over.Load() {
		from := w.rand.IntN(l.cfg.Accounts)
		to := (from + 1 + w.rand.IntN(l.cfg.Accounts-1)) % l.cfg.Accounts
		cmd := api.Command{
			Currency: w.currency, From: accountName(from), To: accountName(to),
			Amount:     1 + ledger.Amount(w.rand.Uint64N(uint64(l.cfg.AmountMax))),
			Durability: l.cfg.Durability,
		}
		r, err := w.do(ctx, api.PathTransfers, cmd, ledger.Done, ledger.Overdraft)
		if err != nil {
			return err
		}
		if err := l.count(r, cmd.Amount); err != nil {
			return err
		}
	}
	return nil
}

// count books an outcome.
func (l *Load) count(r api.Receipt, amount ledger.Amount) error {
	now := time.Now()
	if r.Code == ledger.Done {
		ack := Ack{
			Client: r.Client, Request: r.Request, Currency: r.Currency, Position: r.Position,
			Amount: amount, Epoch: r.Epoch, AckedMS: now.UnixMilli(),
		}
		if err := l.acks.put(ack); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Code == ledger.Done {
		l.counts.Acknowledged++
	} else {
		l.counts.Refused++
	}
	if gap := now.Sub(l.lastAck); gap > l.counts.Silence {
		l.counts.Silence, l.counts.SilenceBefore = gap, now
	}
	l.lastAck = now
	total := l.counts.Acknowledged + l.counts.Refused
	if l.cfg.Transfers != 0 && total >= l.cfg.Transfers {
		l.over.Store(true)
	}
	return nil
}

// do numbers a command and sends it, unchanged, until its outcome is known. An
// outcome that is not among want proves a bug and is an error.
func (w *worker) do(ctx context.Context, path string, cmd api.Command, want ...ledger.Code) (api.Receipt, error) {
	w.next++
	cmd.Client, cmd.Request = w.id, w.next
	body, err := json.Marshal(cmd)
	if err != nil {
		return api.Receipt{}, fmt.Errorf("encode command: %w", err)
	}
	back := retry.Policy{First: 50 * time.Millisecond, Max: 500 * time.Millisecond}.Backoff()
	for {
		r, err := w.try(ctx, path, body)
		if err == nil {
			return r, checkReceipt(cmd, r, want)
		}
		if tidegate.ClassOf(err) != tidegate.Transient {
			return api.Receipt{}, err
		}
		w.load.retried(err)
		if err := pause(ctx, err, back); err != nil {
			return api.Receipt{}, err
		}
	}
}

// pauseMax bounds how long a server's advice is followed: the request may have a
// better address by then.
const pauseMax = time.Second

// pause waits before the same request is sent again: as long as the server
// advised, within reason, or else as the back-off says.
func pause(ctx context.Context, err error, back *retry.Backoff) error {
	p, ok := errors.AsType[*problemError](err)
	if !ok || p.RetryAfter <= 0 {
		return back.Wait(ctx)
	}
	// Spread over the second half, or all that were refused come back as one.
	advice := min(pauseMax, time.Duration(p.RetryAfter*float64(time.Second)))
	t := time.NewTimer(time.Duration((1 + rand.Float64()) / 2 * float64(advice)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func checkReceipt(cmd api.Command, r api.Receipt, want []ledger.Code) error {
	if r.Client != cmd.Client || r.Request != cmd.Request || r.Currency != cmd.Currency {
		return &tidegate.Error{
			Op: "read receipt", Subject: fmt.Sprintf("%s/%d", cmd.Client, cmd.Request), Class: tidegate.Corrupt,
			Err: fmt.Errorf("it is for %s/%d in %s", r.Client, r.Request, r.Currency),
		}
	}
	for _, c := range want {
		if r.Code == c {
			return nil
		}
	}
	return &tidegate.Error{
		Op: "read receipt", Subject: fmt.Sprintf("%s/%d", cmd.Client, cmd.Request), Class: tidegate.Refused,
		Err: fmt.Errorf("outcome %s", r.Code),
	}
}

func (l *Load) retried(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Retried++
	if p, ok := errors.AsType[*problemError](err); ok && (p.Reason == api.ReasonRejected || p.Reason == api.ReasonDraining) {
		l.counts.Rejected++
	}
	l.reason = err.Error()
}

// try is one HTTP exchange. Whatever leaves the outcome unknown is transient.
func (w *worker) try(ctx context.Context, path string, body []byte) (api.Receipt, error) {
	l := w.load
	ctx, cancel := context.WithTimeout(ctx, l.cfg.TryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.cfg.URL+path, bytes.NewReader(body))
	if err != nil {
		return api.Receipt{}, &tidegate.Error{Op: "make request", Class: tidegate.Misuse, Err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	// The server gives up a little earlier than we do, so that its reason arrives.
	req.Header.Set(api.HeaderTimeout, (l.cfg.TryTimeout * 9 / 10).String())
	resp, err := l.http.Do(req)
	if err != nil {
		return api.Receipt{}, &tidegate.Error{Op: "send", Subject: path, Class: tidegate.Transient, Err: err}
	}
	defer func() { _ = resp.Body.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(resp.Body, api.BodyMax))
	if err != nil {
		return api.Receipt{}, &tidegate.Error{Op: "read answer", Subject: path, Class: tidegate.Transient, Err: err}
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusConflict:
		var r api.Receipt
		if err := json.Unmarshal(data, &r); err != nil {
			return api.Receipt{}, &tidegate.Error{Op: "read answer", Subject: path, Class: tidegate.Transient, Err: err}
		}
		return r, nil
	case http.StatusBadRequest:
		return api.Receipt{}, &tidegate.Error{Op: "send", Subject: path, Class: tidegate.Misuse, Err: problem(resp, data)}
	}
	return api.Receipt{}, &tidegate.Error{Op: "send", Subject: path, Class: tidegate.Transient, Err: problem(resp, data)}
}

// problemError is an answer that is no receipt.
type problemError struct{ api.Problem }

func (e *problemError) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Detail) }

// problem turns an answer that is no receipt into an error with its reason.
func problem(resp *http.Response, data []byte) error {
	var p api.Problem
	if json.Unmarshal(data, &p) == nil && p.Reason != "" {
		return &problemError{p}
	}
	return errors.New(resp.Status)
}
