package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/journal"
)

// CheckConfig configures a [Check].
type CheckConfig struct {
	URL       string        // of the node that serves now
	AckedPath string        // what [Load] wrote
	Within    time.Duration // how long the target may take to answer at all; default 30 s
}

// Report is the verdict of a [Check].
type Report struct {
	Acknowledged uint64   `json:"acknowledged"`
	Recovered    uint64   `json:"recovered"` // carried out exactly once, at the acknowledged position
	Lost         uint64   `json:"lost"`      // not carried out at the target
	Moved        uint64   `json:"moved"`     // carried out at another position than was acknowledged
	Doubled      uint64   `json:"doubled"`   // acknowledged and carried out more than once
	TornLine     bool     `json:"torn_line"` // the ack file ends in half a line, which is not counted
	FirstLostMS  int64    `json:"first_lost_unix_ms,omitempty"`
	LastLostMS   int64    `json:"last_lost_unix_ms,omitempty"`
	LostSample   []Ack    `json:"lost_sample,omitempty"` // at most sampleMax
	Books        []Replay `json:"books"`
	Sound        bool     `json:"sound"` // nothing moved or doubled, every book's money and digest are right
}

// Replay is what replaying one book's journal gave.
type Replay struct {
	Currency ledger.Currency   `json:"currency"`
	Position tidegate.Position `json:"position"`
	Records  uint64            `json:"records"`
	Minted   int64             `json:"minted"`
	Digest   tidegate.Digest   `json:"digest"`            // of the replayed state
	Told     tidegate.Digest   `json:"told"`              // by the target, for the same position
	Problem  string            `json:"problem,omitempty"` // money that does not add up, a digest that differs
	Lineage  tidegate.Lineage  `json:"lineage"`
}

const sampleMax = 20

type request struct {
	client  ledger.ClientID
	request ledger.Request
}

// seen is what the replay found of an acknowledged request.
type seen struct {
	ack   *Ack
	times int
	first tidegate.Position
}

// Check replays the target's journals and compares them with the ack file. An
// error means that the check could not be made, never that it failed: that is
// in the Report.
func Check(ctx context.Context, hc *http.Client, cfg CheckConfig) (Report, error) {
	if cfg.Within == 0 {
		cfg.Within = 30 * time.Second
	}
	if err := validURL(cfg.URL); err != nil {
		return Report{}, &tidegate.Error{Op: "configure check", Class: tidegate.Misuse, Err: err}
	}
	acks, torn, err := readAcks(cfg.AckedPath)
	if err != nil {
		return Report{}, err
	}
	rep := Report{TornLine: torn, Sound: true}
	c := &checker{http: hc, url: cfg.URL, within: cfg.Within}
	for _, cur := range ledger.Currencies() {
		want := map[request]*seen{}
		for i := range acks {
			if a := &acks[i]; a.Currency == cur {
				want[request{a.Client, a.Request}] = &seen{ack: a}
			}
		}
		book, err := c.replay(ctx, cur, want)
		if err != nil {
			return Report{}, fmt.Errorf("check %s: %w", cur, err)
		}
		rep.Books = append(rep.Books, book)
		rep.Sound = rep.Sound && book.Problem == ""
		for _, s := range want {
			rep.count(s)
		}
	}
	rep.Sound = rep.Sound && rep.Moved == 0 && rep.Doubled == 0
	return rep, nil
}

func (r *Report) count(s *seen) {
	r.Acknowledged++
	switch {
	case s.times == 0:
		r.Lost++
		if r.FirstLostMS == 0 || s.ack.AckedMS < r.FirstLostMS {
			r.FirstLostMS = s.ack.AckedMS
		}
		r.LastLostMS = max(r.LastLostMS, s.ack.AckedMS)
		if len(r.LostSample) < sampleMax {
			r.LostSample = append(r.LostSample, *s.ack)
		}
	case s.times > 1:
		r.Doubled++
	case s.first != s.ack.Position:
		r.Moved++
	default:
		r.Recovered++
	}
}

type checker struct {
	http   *http.Client
	url    string
	within time.Duration
}

// replay fetches one book's journal up to the position of a digest that the
// target names, and applies it to an empty state.
func (c *checker) replay(ctx context.Context, cur ledger.Currency, want map[request]*seen) (Replay, error) {
	var told api.Digest
	if err := c.getJSON(ctx, api.PathDigest, url.Values{"currency": {cur.String()}}, &told); err != nil {
		return Replay{}, err
	}
	state := ledger.New(cur)
	out := Replay{Currency: cur, Told: told.Digest}
	for state.Position() < told.Position {
		raw, lineage, err := c.chunk(ctx, cur, state.Position(), told.Position)
		if err != nil {
			return Replay{}, err
		}
		out.Lineage = lineage
		before := state.Position()
		if err := journal.Scan(raw, before, func(r journal.Record) error { return apply(state, r, want) }); err != nil {
			return Replay{}, fmt.Errorf("replay: %w", err)
		}
		if state.Position() == before {
			return Replay{}, fmt.Errorf("replay: the journal ends at %s, the digest is of %s: %w", before, told.Position, tidegate.ErrGap)
		}
	}
	out.Position, out.Records, out.Minted, out.Digest = state.Position(), state.Records(), state.Minted(), state.Digest()
	if err := state.Audit(); err != nil {
		out.Problem = err.Error()
	} else if out.Digest != told.Digest {
		out.Problem = "the replayed state has another digest than the target's"
	}
	return out, nil
}

func apply(state *ledger.State, r journal.Record, want map[request]*seen) error {
	if r.Kind != journal.KindData {
		return state.Skip(r.First, r.Next)
	}
	cmd, err := ledger.DecodeCommand(r.Payload)
	if err != nil {
		return err
	}
	o, err := state.Apply(r.First, r.Next, r.Payload)
	if err != nil {
		return err
	}
	if s := want[request{cmd.Client, cmd.Request}]; s != nil && o.Code == ledger.Done && !o.Duplicate {
		if s.times++; s.times == 1 {
			s.first = o.First
		}
	}
	return nil
}

func (c *checker) chunk(ctx context.Context, cur ledger.Currency, from, to tidegate.Position) ([]byte, tidegate.Lineage, error) {
	path, err := url.JoinPath("/journal", cur.String())
	if err != nil {
		return nil, "", fmt.Errorf("make path: %w", err)
	}
	raw, head, err := c.get(ctx, path, url.Values{"from": {from.String()}, "to": {to.String()}})
	if err != nil {
		return nil, "", err
	}
	return raw, tidegate.Lineage(head.Get(api.HeaderLineage)), nil
}

func (c *checker) getJSON(ctx context.Context, path string, q url.Values, into any) error {
	b, _, err := c.get(ctx, path, q)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

// get asks until the target answers, for as long as cfg.Within says: right after
// a failover the route may still be moving.
func (c *checker) get(ctx context.Context, path string, q url.Values) (body []byte, head http.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.within)
	defer cancel()
	err = retry.Policy{Max: time.Second}.Do(ctx, func(ctx context.Context) error {
		body, head, err = c.getOnce(ctx, path, q)
		return err
	})
	return body, head, err
}

func (c *checker) getOnce(ctx context.Context, path string, q url.Values) ([]byte, http.Header, error) {
	fail := func(class tidegate.Class, err error) error {
		return &tidegate.Error{Op: "get", Subject: path, Class: class, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path+"?"+q.Encode(), nil)
	if err != nil {
		return nil, nil, fail(tidegate.Misuse, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, nil, fail(tidegate.Transient, err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, nil, fail(tidegate.Transient, err)
	case resp.StatusCode == http.StatusOK:
		return b, resp.Header, nil
	case resp.StatusCode >= http.StatusInternalServerError:
		return nil, nil, fail(tidegate.Transient, problem(resp, b))
	}
	return nil, nil, fail(tidegate.Permanent, errors.Join(errors.New(resp.Status), problem(resp, b)))
}

// Print writes the report as a table.
func (r Report) Print(w io.Writer) error {
	_, err := fmt.Fprintf(w, "acknowledged  %d\nrecovered     %d\nlost          %d\nmoved         %d\ndoubled       %d\n",
		r.Acknowledged, r.Recovered, r.Lost, r.Moved, r.Doubled)
	if err == nil && r.Lost > 0 {
		_, err = fmt.Fprintf(w, "loss window   %s\n", time.Duration(r.LastLostMS-r.FirstLostMS)*time.Millisecond)
	}
	for _, b := range r.Books {
		verdict := "digest matches"
		if b.Problem != "" {
			verdict = b.Problem
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "book %s      %d records up to %s, minted %d, digest %s: %s\n",
				b.Currency, b.Records, b.Position, b.Minted, b.Digest, verdict)
		}
	}
	return err
}
