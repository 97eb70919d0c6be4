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
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/tidegate/tidegate"
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
	act      act
	check    client.Report
	plan     *pb.Plan
	counts   client.Counts
	digests  []digestPair
	fenced   []string // what the thawed site showed
	broken   []error  // what did not hold
	headsEnd map[string]tidegate.Position
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
	acked := filepath.Join(r.act.plant.Dir, "acknowledged.jsonl")
	loadOut := filepath.Join(r.act.plant.Dir, "load.json")
	s.say("clients transfer, and write down every acknowledgement")
	// The counts go to a file of their own, so that they can be read when it has ended.
	if err := l.StartProc("load", lab.SiteWitness, "/bin/sh", "-c", `exec "$0" "$@" >`+loadOut, l.Bin("ledger"), "load",
		"--url", l.Route(), "--acked", acked, "--json", "--accounts", "100"); err != nil {
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
	l.Proc("load").Stop(patience)
	if b, err := os.ReadFile(loadOut); err != nil {
		return err
	} else if err := json.Unmarshal(b, &r.counts); err != nil {
		return fmt.Errorf("read what the clients counted: %w", err)
	}
	return r.judge(ctx, l, s, acked)
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

// killSite is a power cut as far as processes go: nothing gets a chance to say goodbye.
func killSite(_ context.Context, l *lab.Lab) error {
	for _, p := range l.Procs(lab.SitePrimary) {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			return err
		}
	}
	for _, p := range l.Procs(lab.SitePrimary) {
		p.Kill()
	}
	return nil
}

// freezeSite first cuts the site off: its agents stop, so nothing crosses any
// more while the service goes on and answers its clients within the bounds. Then
// everything stops in its tracks: connections stay open, nothing is answered,
// and everything will go on as if nothing had been.
func freezeSite(ctx context.Context, l *lab.Lab) error {
	for _, agents := range []bool{true, false} {
		for _, p := range l.Procs(lab.SitePrimary) {
			if strings.HasPrefix(p.Name, "agent-") != agents {
				continue
			}
			if err := p.Signal(syscall.SIGSTOP); err != nil {
				return err
			}
		}
		if agents {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(cutOff):
			}
		}
	}
	return nil
}

// cutOff is how long the second act's site goes on without its link.
const cutOff = 700 * time.Millisecond

// noticed waits until the gate's synthetic client has seen that something is
// wrong, as an operator does who is called because of it.
func (r *result) noticed(ctx context.Context, l *lab.Lab, s *stage) error {
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return l.Until(wait, "the gate to notice", func(ctx context.Context) error {
		b, err := l.Tidegate(ctx, "status", "-o", "json")
		var exit *lab.ExitError
		if err != nil && !errors.As(err, &exit) {
			return err
		}
		var st pb.StatusResponse
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &st); err != nil {
			return err
		}
		for _, svc := range st.GetServices() {
			if p := svc.GetProbe(); p.GetEnabled() && !p.GetGood() {
				s.say("the gate noticed: " + p.GetError())
				return nil
			}
		}
		return errors.New("synthetic writes still succeed")
	})
}

func (r *result) failover(ctx context.Context, l *lab.Lab, s *stage) error {
	args := []string{"failover", "--reason", "demo: " + r.act.title}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text, err := l.Tidegate(wait, append(args, lab.Service)...)
	s.say(string(text))
	if err != nil {
		return err
	}
	id, ok := strings.CutPrefix(firstLine(text), "plan ")
	id, _, ok2 := strings.Cut(id, ":")
	if !ok || !ok2 {
		return fmt.Errorf("failover: no plan in %q", firstLine(text))
	}
	return r.readPlan(ctx, l, id)
}

func (r *result) readPlan(ctx context.Context, l *lab.Lab, id string) error {
	b, err := l.Tidegate(ctx, "plan", "show", "-o", "json", id)
	if err != nil {
		return err
	}
	r.plan = &pb.Plan{}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, r.plan)
}

// thaw lets the old primary site go on, and waits until it has understood.
func (r *result) thaw(ctx context.Context, l *lab.Lab, s *stage) error {
	s.say("the primary site thaws; it knows nothing of what happened")
	for _, p := range l.Procs(lab.SitePrimary) {
		if err := p.Signal(syscall.SIGCONT); err != nil {
			return err
		}
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := l.Until(wait, "the old primary to be fenced and its tail counted", func(ctx context.Context) error {
		if err := r.readPlan(ctx, l, r.plan.GetId()); err != nil {
			return err
		}
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
	defer res.Body.Close() //nolint:errcheck // only read
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
