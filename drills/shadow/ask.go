package shadow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/internal/clock"
)

// answerBytesMax is how much of an answer is looked at, and gotLenMax how much of it is
// put on record.
const (
	answerBytesMax = 1 << 20
	gotLenMax      = 300
)

// asker asks the clone.
type asker struct {
	clk  clock.Clock
	b    *sandbox
	env  map[string]string
	http *http.Client
}

// client asks the clone and nobody else: a redirect is an answer like others, and no
// address is dialled that the program was not given.
func (b *sandbox) client() *http.Client {
	var d net.Dialer
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if !b.given(addr) {
				return nil, &tidegate.Error{
					Op: "ask", Subject: addr, Class: tidegate.Refused, Err: errors.New("it is no address of the clone's"),
					Hint: "a drill asks the addresses that it gave to the program, and nothing else",
				}
			}
			return d.DialContext(ctx, network, addr)
		}},
	}
}

// wrong is an answer that is not the wanted one. Any other error is no answer.
type wrong struct{ got string }

func (w wrong) Error() string { return "got " + w.got }

// ask asks once. got is what was answered, shortened.
func (k *asker) ask(ctx context.Context, a *Ask) (got string, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	if a.HTTP != nil {
		got, err = k.get(ctx, a.HTTP)
	} else {
		got, err = k.command(ctx, a.Command)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s: %w", a.Timeout, err)
	}
	return got, err
}

func (k *asker) get(ctx context.Context, h *HTTP) (string, error) {
	req, err := http.NewRequestWithContext(ctx, h.Method, k.b.fill(h.URL), strings.NewReader(k.b.fill(h.Body)))
	if err != nil {
		return "", err
	}
	if h.Body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := k.http.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }() // it was read
	body, err := io.ReadAll(io.LimitReader(res.Body, answerBytesMax))
	if err != nil {
		return "", err
	}
	got := short(fmt.Sprintf("%d %s", res.StatusCode, body))
	if res.StatusCode != h.Status || !strings.Contains(string(body), k.b.fill(h.Contains)) {
		return got, wrong{got}
	}
	return got, nil
}

func (k *asker) command(ctx context.Context, c *Command) (string, error) {
	run := k.b.fillAll(c.Run)
	cmd := exec.CommandContext(ctx, run[0], run[1:]...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = k.b.environment(k.env), k.b.home(), sysProc()
	var g group
	cmd.Cancel = func() error { // and what it started
		if !g.kill(cmd, syscall.SIGKILL) {
			return os.ErrProcessDone
		}
		return nil
	}
	cmd.WaitDelay = time.Second
	var out strings.Builder
	cmd.Stdout = &bounded{&out}
	cmd.Stderr = cmd.Stdout // the same one: it is written to by one goroutine
	err := cmd.Start()
	if err == nil {
		err = g.wait(cmd)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited || ctx.Err() != nil {
		return "", err
	}
	got := short(fmt.Sprintf("exit %d: %s", cmd.ProcessState.ExitCode(), strings.TrimSpace(out.String())))
	if cmd.ProcessState.ExitCode() != c.Exit || !strings.Contains(out.String(), k.b.fill(c.Contains)) {
		return got, wrong{got}
	}
	return got, nil
}

// bounded keeps the beginning of what is written, and lets the rest go.
type bounded struct{ b *strings.Builder }

func (w *bounded) Write(p []byte) (int, error) {
	w.b.Write(p[:min(len(p), max(0, answerBytesMax-w.b.Len()))])
	return len(p), nil
}

func short(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	if len(s) > gotLenMax {
		s = strings.ToValidUTF8(s[:gotLenMax], "") + "..."
	}
	return s
}

// wanted is what an answer must be, for people.
func (a *Ask) wanted() string {
	var text, contains string
	if a.HTTP != nil {
		text, contains = fmt.Sprintf("%s %s: %d", a.HTTP.Method, a.HTTP.URL, a.HTTP.Status), a.HTTP.Contains
	} else {
		text, contains = fmt.Sprintf("%s: exit %d", strings.Join(a.Command.Run, " "), a.Command.Exit), a.Command.Contains
	}
	if contains != "" {
		text += fmt.Sprintf(" with %q", contains)
	}
	return text
}

func (a *Ask) kind() string {
	if a.HTTP != nil {
		return "http"
	}
	return "command"
}

// check asks once, and writes down what came of it. One that has no answer in time has
// failed, unless the drill was called off meanwhile.
func (k *asker) check(ctx context.Context, name, kind string, a *Ask) evidence.Check {
	began := k.clk.Boot()
	got, err := k.ask(ctx, a)
	took := time.Duration(k.clk.Boot() - began)
	out := evidence.Check{Name: name, Kind: kind, Wanted: a.wanted(), Outcome: evidence.CheckPassed, Took: &took}
	if got != "" {
		out.Got = &got
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		out.Outcome, out.Why = evidence.CheckUnknown, "the drill ended before the answer"
	default:
		out.Outcome, out.Why = evidence.CheckFailed, err.Error()
	}
	return out
}

// canaryEvery is the pause between two attempts of a write that is not accepted yet.
const canaryEvery = 5 * time.Millisecond

// canary writes until the clone accepts it, then reads it back. accepted is called in
// between.
func (k *asker) canary(ctx context.Context, c *Canary) (evidence.Check, error) {
	began := k.clk.Boot()
	tick := time.NewTicker(canaryEvery)
	defer tick.Stop()
	attempts, last := 0, error(nil)
	for {
		attempts++
		got, err := k.ask(ctx, &c.Write)
		if err == nil {
			took := time.Duration(k.clk.Boot() - began)
			return evidence.Check{Name: c.Name, Kind: "canary", Wanted: c.Write.wanted(), Got: &got, Outcome: evidence.CheckPassed, Took: &took}, nil
		}
		if ctx.Err() == nil {
			last = err // the one that ctx ended says nothing
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			cause := context.Cause(ctx)
			out := evidence.Check{Name: c.Name, Kind: "canary", Wanted: c.Write.wanted(), Outcome: evidence.CheckUnknown, Why: "the drill ended before it was accepted"}
			if _, is := errors.AsType[cloneError](cause); is {
				out.Outcome, out.Why = evidence.CheckFailed, fmt.Sprintf("not accepted in %d attempts: %s", attempts, sentence(cause))
			}
			if last != nil {
				out.Why += ": " + sentence(last)
				cause = fmt.Errorf("%w: %w", cause, last)
			}
			return out, fmt.Errorf("canary %s: %w", c.Name, cause)
		}
	}
}
