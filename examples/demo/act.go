package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	ledgerapi "github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/internal/lab"
)

// act is one disaster.
type act struct {
	number int
	title  string
	plant  lab.Plant
	down   func(context.Context, *lab.Lab) error // the disaster
	thawed bool                                  // the primary site comes back after the failover
}

// result is what an act has shown.
type result struct {
	act     act
	check   client.Report
	plan    *pb.Plan
	counts  client.Counts
	digests []digestPair
	fenced  []string // what the thawed site showed
	broken  []error  // what did not hold
}

// patience bounds each wait: a demo that hangs has failed.
const patience = 40 * time.Second

func (a act) play(ctx context.Context, out io.Writer, load time.Duration) (*result, error) {
	fmt.Fprintf(out, "\nAct %d: %s\n", a.number, a.title)
	s := &stage{out: out, begun: time.Now()}
	l, err := lab.New(a.plant)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	up, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.Up(up, s.say); err != nil {
		return nil, err
	}
	r := &result{act: a}
	return r, r.run(ctx, l, s, load)
}

// stage prints what goes on, with the time since the act began.
type stage struct {
	out   io.Writer
	begun time.Time
}

func (s *stage) say(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		fmt.Fprintf(s.out, "%6.1fs  %s\n", time.Since(s.begun).Seconds(), strings.TrimRight(line, "\n"))
	}
}

func (r *result) run(ctx context.Context, l *lab.Lab, s *stage, load time.Duration) error {
	acked := l.Acked()
	s.say("clients transfer, and write down every acknowledgement")
	if err := l.StartLoad("--accounts", "100"); err != nil {
		return err
	}
	if err := r.watch(ctx, l, s, acked, load); err != nil {
		return err
	}
	status, err := l.Tidegate(ctx, "status")
	var exit *lab.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	s.say(firstLine(status))

	s.say("DISASTER: " + r.act.title)
	if err := r.act.down(ctx, l); err != nil {
		return err
	}
	before, err := lastAck(acked)
	if err != nil {
		return err
	}
	if err := r.noticed(ctx, l, s); err != nil {
		return err
	}
	if err := r.failover(ctx, l, s); err != nil {
		return err
	}
	s.say("waiting for the clients to carry on at the DR site")
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.Until(wait, "acknowledgements of the new epoch", func(context.Context) error {
		now, err := lastAck(acked)
		if err == nil && (now.Epoch <= before.Epoch || now.AckedMS < before.AckedMS+1) {
			err = fmt.Errorf("the newest is of epoch %s", now.Epoch)
		}
		return err
	}); err != nil {
		return err
	}
	if r.act.thawed {
		if err := r.thaw(ctx, l, s); err != nil {
			return err
		}
	}
	if err := r.watch(ctx, l, s, acked, 2*time.Second); err != nil {
		return err
	}
	if r.counts, err = l.StopLoad(patience); err != nil {
		return err
	}
	return r.judge(ctx, l, s)
}

// watch shows progress for a while.
func (r *result) watch(ctx context.Context, l *lab.Lab, s *stage, acked string, span time.Duration) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	end := time.After(span)
	for {
		n, err := countLines(acked)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			s.say(fmt.Sprintf("  %d transfers acknowledged", n))
		case <-end:
			return nil
		}
		if err := l.Proc("load").Died(); err != nil {
			return err
		}
	}
}

func killSite(_ context.Context, l *lab.Lab) error {
	l.KillSite(lab.SitePrimary)
	return nil
}

func freezeSite(ctx context.Context, l *lab.Lab) error {
	return l.FreezeSite(ctx, lab.SitePrimary, cutOff)
}

// cutOff is how long the second act's site goes on without its link.
const cutOff = 700 * time.Millisecond

func (r *result) noticed(ctx context.Context, l *lab.Lab, s *stage) error {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	what, err := l.Noticed(wait)
	if err == nil {
		s.say("the gate noticed: " + what)
	}
	return err
}

func (r *result) failover(ctx context.Context, l *lab.Lab, s *stage) error {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text, plan, err := l.Failover(wait, "demo: "+r.act.title)
	s.say(text)
	r.plan = plan
	return err
}

// thaw lets the old primary site go on, and waits until it has understood.
func (r *result) thaw(ctx context.Context, l *lab.Lab, s *stage) error {
	s.say("the primary site thaws; it knows nothing of what happened")
	if err := l.ThawSite(lab.SitePrimary); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.Until(wait, "the old primary to be fenced and its tail counted", func(ctx context.Context) error {
		plan, err := l.Plan(ctx, r.plan.GetId())
		if err != nil {
			return err
		}
		r.plan = plan
		for _, st := range r.plan.GetStreams() {
			if st.GetLoss().GetMeasured() == nil {
				return fmt.Errorf("stream %s: its old writer has not reported its tail", st.GetName())
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for i := range 3 {
		name := fmt.Sprintf("p%d", i+1)
		answer, err := oldSiteAnswers(ctx, l.HTTP(name))
		if err != nil {
			r.broken = append(r.broken, err)
		}
		s.say(fmt.Sprintf("  old node %s answers a client: %s", name, answer))
		r.fenced = append(r.fenced, name+": "+answer)
	}
	return nil
}

// oldSiteAnswers sends a transfer straight to a node of the old site, past the
// route. Any 200 would be a split brain.
func oldSiteAnswers(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	body := `{"client":"7777777777777777777777777777777f","request":1,"currency":"eur","to":"stranger"}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+ledgerapi.PathAccounts, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(ledgerapi.HeaderTimeout, "2s")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "no answer", nil //nolint:nilerr // no answer is as good as a refusal
	}
	defer res.Body.Close()
	var p ledgerapi.Problem
	if err := json.NewDecoder(res.Body).Decode(&p); err != nil {
		return "", fmt.Errorf("old node %s: %w", url, err)
	}
	if res.StatusCode == http.StatusOK {
		return res.Status, fmt.Errorf("old node %s accepted a write after the failover", url)
	}
	return fmt.Sprintf("%s (%s)", res.Status, p.Reason), nil
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return string(line)
}

func countLines(path string) (int, error) {
	b, err := os.ReadFile(path)
	return bytes.Count(b, []byte("\n")), err
}

func lastAck(path string) (client.Ack, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return client.Ack{}, err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	b = bytes.TrimSuffix(b, []byte("\n"))
	var a client.Ack
	err = json.Unmarshal(b[bytes.LastIndexByte(b, '\n')+1:], &a)
	return a, err
}
