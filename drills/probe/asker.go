package probe

import (
	"bytes"
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
	"github.com/tidegate/tidegate/internal/procgroup"
)

// answerBytesMax is how much of an answer is looked at, and gotLenMax how much of it is
// put on record.
const (
	answerBytesMax = 1 << 20
	gotLenMax      = 300
)

// Place is where the asked service lives. Its methods may be called concurrently.
type Place interface {
	// Fill puts values in for the names in braces.
	Fill(text string) string
	// Given reports whether an address may be dialled: host:port, or the path of a socket.
	Given(addr string) bool
	// Environment is that of commands, with more variables.
	Environment(more map[string]string) []string
	// Home is the directory in which commands run.
	Home() string
}

// Asker asks the service of one place.
type Asker struct {
	clk  clock.Clock
	at   Place
	env  map[string]string
	http *http.Client
}

// New returns one that gives commands env besides; it does no I/O.
func New(clk clock.Clock, at Place, env map[string]string) *Asker {
	k := &Asker{clk: clk, at: at, env: env}
	k.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // an answer like others
		Transport:     &http.Transport{DialContext: k.dial},
	}
	return k
}

// Close ends the connections that wait for the next question.
func (k *Asker) Close() { k.http.CloseIdleConnections() }

// dial dials what the place has given, and nothing else.
func (k *Asker) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if !k.at.Given(addr) {
		return nil, &tidegate.Error{
			Op: "ask", Subject: addr, Class: tidegate.Refused, Err: errors.New("it is no address of the asked service's"),
			Hint: "a drill asks the addresses that it gave to the program or that its file names, and nothing else",
		}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// Wrong is an answer that is not the wanted one. Any other error is no answer.
type Wrong struct{ Got string }

func (w Wrong) Error() string { return "got " + w.Got }

// Ask asks once, for at most a.Timeout. got is what was answered, shortened.
func (k *Asker) Ask(ctx context.Context, a *Ask) (got string, err error) {
	out, err := k.ask(ctx, a)
	if err != nil {
		return "", err
	}
	return out.record(out.said)
}

// answered is an answer: its text, all of what may be put on record, and whether it is the
// wanted one.
type answered struct {
	text, said string
	wanted     bool
}

// record shortens said, and is an error where the answer is not the wanted one.
func (a answered) record(said string) (got string, err error) {
	if got = Short(said); !a.wanted {
		err = Wrong{got}
	}
	return got, err
}

func (k *Asker) ask(ctx context.Context, a *Ask) (out answered, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	switch {
	case a.HTTP != nil:
		out, err = k.get(ctx, a.HTTP)
	case a.SQL != nil:
		out, err = k.query(ctx, a.SQL)
	default:
		out, err = k.command(ctx, a.Command)
	}
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer within %s: %w", a.Timeout, err)
	}
	return out, err
}

func (k *Asker) get(ctx context.Context, h *HTTP) (out answered, err error) {
	status, body, err := k.fetch(ctx, h, answerBytesMax)
	if err != nil {
		return out, err
	}
	text := string(body)
	if err := whole(text, k.at.Fill(h.Contains)); err != nil && status == h.Status {
		return out, err
	}
	wanted := status == h.Status && strings.Contains(text, k.at.Fill(h.Contains))
	return answered{text, fmt.Sprintf("%d %s", status, text), wanted}, nil
}

// whole is an error where what is looked for may stand behind what was read of an answer.
func whole(text, contains string) error {
	if len(text) < answerBytesMax || strings.Contains(text, contains) {
		return nil
	}
	return undecided{fmt.Sprintf("%q is not in the first %d MiB of the answer, and no more is looked at", contains, answerBytesMax>>20)}
}

// fetch returns the first bytes of the answer's body.
func (k *Asker) fetch(ctx context.Context, h *HTTP, bytesMax int64) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, h.Method, k.at.Fill(h.URL), strings.NewReader(k.at.Fill(h.Body)))
	if err != nil {
		return 0, nil, err
	}
	if h.Body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := k.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }() // it was read
	body, err = io.ReadAll(io.LimitReader(res.Body, bytesMax))
	return res.StatusCode, body, err
}

func (k *Asker) command(ctx context.Context, c *Command) (a answered, err error) {
	out := &bounded{max: answerBytesMax}
	exit, err := k.run(ctx, c, out, out) // the same one: it is written to by one goroutine
	if err != nil {
		return a, err
	}
	text := out.b.String()
	if err := whole(text, k.at.Fill(c.Contains)); err != nil && exit == c.Exit {
		return a, err
	}
	wanted := exit == c.Exit && strings.Contains(text, k.at.Fill(c.Contains))
	return answered{text, fmt.Sprintf("exit %d: %s", exit, strings.TrimSpace(text)), wanted}, nil
}

// run runs a command to its end, and returns its exit code.
func (k *Asker) run(ctx context.Context, c *Command, stdout, stderr io.Writer) (exit int, err error) {
	run := make([]string, len(c.Run))
	for i, arg := range c.Run {
		run[i] = k.at.Fill(arg)
	}
	cmd := exec.CommandContext(ctx, run[0], run[1:]...)
	cmd.Env, cmd.Dir, cmd.SysProcAttr = k.at.Environment(k.env), k.at.Home(), procgroup.Apart()
	var g procgroup.Group
	cmd.Cancel = func() error { // and what it started
		if !g.Kill(cmd, syscall.SIGKILL) {
			return os.ErrProcessDone
		}
		return nil
	}
	cmd.WaitDelay = time.Second
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err = cmd.Start(); err == nil {
		err = g.Wait(cmd)
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), ctx.Err()
}

// bounded keeps the beginning of what is written, and lets the rest go.
type bounded struct {
	b   bytes.Buffer
	max int
}

func (w *bounded) Write(p []byte) (int, error) {
	w.b.Write(p[:min(len(p), max(0, w.max-w.b.Len()))])
	return len(p), nil
}

// Short is a text as it is put on record: its beginning.
func Short(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	if len(s) > gotLenMax {
		s = strings.ToValidUTF8(s[:gotLenMax], "") + "..."
	}
	return s
}

// Check asks once, and writes down what came of it. One that has no answer in time has
// failed, unless ctx ended meanwhile.
func (k *Asker) Check(ctx context.Context, name, kind string, a *Ask) evidence.Check {
	began := k.clk.Boot()
	got, err := k.Ask(ctx, a)
	took := time.Duration(k.clk.Boot() - began)
	out := evidence.Check{Name: name, Kind: kind, Wanted: a.Wanted(), Took: &took}
	if got != "" {
		out.Got = &got
	}
	out.Outcome, out.Why = outcome(ctx, err)
	return out
}

// undecided is why an answer that came says neither yes nor no.
type undecided struct{ why string }

func (u undecided) Error() string { return u.why }

// outcome is what an error says of a check.
func outcome(ctx context.Context, err error) (evidence.CheckOutcome, string) {
	switch {
	case err == nil:
		return evidence.CheckPassed, ""
	case ctx.Err() != nil:
		return evidence.CheckUnknown, "the drill ended before the answer"
	case errors.As(err, new(undecided)):
		return evidence.CheckUnknown, evidence.Sentence(err)
	}
	return evidence.CheckFailed, evidence.Sentence(err)
}
