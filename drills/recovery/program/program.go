package program

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/internal/procgroup"
)

const (
	answerBytesMax = 16 << 20        // one line
	complaintsMax  = 600             // of what a program says on its standard error, that goes into an error
	endWait        = 2 * time.Second // for a program whose input has ended
)

// Config says which program, and how it is asked.
type Config struct {
	Run      []string      // command line; its environment is this process's, with the surroundings
	Wait     time.Duration // for one answer; above 0
	Volatile []string      // fields of outputs that are meant to differ: see [recovery.DigestJSON]
}

// Operator is a program as [recovery.TestOperator] drives it.
type Operator struct {
	cfg   Config
	env   []string
	start func() *exec.Cmd
	now   *process // nil: none runs
}

// Maker returns what makes operators of a program, for [recovery.OperatorPlan]. Programs
// end with ctx, too.
func Maker(ctx context.Context, cfg Config) func(recovery.Surroundings) (recovery.Operator, error) {
	return func(s recovery.Surroundings) (recovery.Operator, error) {
		o := &Operator{cfg: cfg, env: append(os.Environ(), environment(s)...)}
		o.start = func() *exec.Cmd {
			cmd := exec.CommandContext(ctx, cfg.Run[0], cfg.Run[1:]...)
			cmd.Env, cmd.SysProcAttr, cmd.WaitDelay = o.env, procgroup.Apart(), endWait
			return cmd
		}
		return o, nil
	}
}

// Surroundings are those in which a program is executed, each named by what it is told. The
// clock is among the names when it moves, which is tried with date(1): it takes libfaketime
// or the like, and does nothing to programs that it can not be preloaded into.
func Surroundings(ctx context.Context) (all []recovery.Surroundings, clockMoves bool) {
	all = recovery.DefaultSurroundings()
	clockMoves = true
	for i := range all {
		s := &all[i]
		if s.ClockOffset != 0 {
			clockMoves = clockMoves && moves(ctx, *s)
		}
	}
	for i := range all {
		told := environment(all[i])
		if !clockMoves {
			told = slices.DeleteFunc(told, func(v string) bool { return strings.HasPrefix(v, fakeTime) })
		}
		if len(told) > 0 {
			all[i].Name = strings.Join(told, " ")
		}
	}
	return all, clockMoves
}

// moves reports whether a program sees another clock in surroundings.
func moves(ctx context.Context, s recovery.Surroundings) bool {
	cmd := exec.CommandContext(ctx, "date", "+%s")
	cmd.Env, cmd.SysProcAttr, cmd.WaitDelay = append(os.Environ(), environment(s)...), procgroup.Apart(), endWait
	text, err := cmd.Output()
	if err != nil {
		return false // it is not seen to
	}
	said, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	off := time.Until(time.Unix(said, 0)) - s.ClockOffset
	return err == nil && off.Abs() < time.Hour
}

const fakeTime = "FAKETIME="

// environment is what of surroundings a program can be told.
func environment(s recovery.Surroundings) (env []string) {
	if s.Procs > 0 {
		env = append(env, fmt.Sprintf("GOMAXPROCS=%d", s.Procs))
	}
	if s.Zone != nil {
		_, east := time.Unix(0, 0).In(s.Zone).Zone()
		env = append(env, fmt.Sprintf("TZ=Etc/GMT%+d", -east/3600)) // those zones count westwards
	}
	if s.ClockOffset != 0 {
		offset := strconv.FormatFloat(s.ClockOffset.Seconds(), 'f', -1, 64)
		if s.ClockOffset > 0 {
			offset = "+" + offset
		}
		env = append(env, fakeTime+offset)
	}
	return env
}

// Reset implements [recovery.Operator]: the program is started anew.
func (o *Operator) Reset() error { return o.Close() }

// Close implements [recovery.Operator]. It is an error when the program has said more than
// its answers.
func (o *Operator) Close() error {
	if o.now == nil {
		return nil
	}
	p := o.now
	o.now = nil
	if err := p.end(); err != nil {
		return o.fail(err)
	}
	return nil
}

func (o *Operator) fail(err error) error {
	return &tidegate.Error{
		Op: "ask", Subject: o.cfg.Run[0], Class: tidegate.Permanent, Err: err,
		Hint: `it reads {"position":...,"input":...} a line, and answers each with {"outputs":[...]} before it reads the next, flushed`,
	}
}

// State implements [recovery.Operator].
func (o *Operator) State() tidegate.Digest {
	if o.now == nil {
		return tidegate.Digest{}
	}
	return o.now.state
}

// Feed implements [recovery.Operator].
func (o *Operator) Feed(in recovery.Input) ([]tidegate.Digest, error) {
	if o.now == nil {
		p, err := begin(o.start())
		if err != nil {
			return nil, &tidegate.Error{Op: "start", Subject: o.cfg.Run[0], Class: tidegate.Permanent, Err: err, Hint: "name the program by its path"}
		}
		o.now = p
	}
	out, err := o.now.feed(in, &o.cfg)
	if err != nil {
		o.now.failed = true
		return nil, o.fail(fmt.Errorf("%w%s", err, o.now.complaints()))
	}
	return out, nil
}

// process is one run of the program.
type process struct {
	cmd    *exec.Cmd
	in     *os.File
	out    *os.File
	answer *bufio.Reader
	group  procgroup.Group
	said   tail
	state  tidegate.Digest
	failed bool // it did not answer as it must
}

// errTwice: what it says next to an answer would be taken for the answer to a later input.
var errTwice = errors.New("it said more than one line to an input")

func begin(cmd *exec.Cmd) (_ *process, err error) {
	p := &process{cmd: cmd}
	inside, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, outside, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inside.Close(), in.Close())
	}
	p.in, p.out, p.answer = in, out, bufio.NewReader(out)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inside, outside, &p.said
	cmd.Cancel = func() error { // and what it started
		if !p.group.Kill(cmd, syscall.SIGKILL) {
			return os.ErrProcessDone
		}
		return nil
	}
	err = cmd.Start()
	if closed := errors.Join(inside.Close(), outside.Close()); err != nil || closed != nil {
		return nil, errors.Join(err, closed, in.Close(), out.Close())
	}
	return p, nil
}

// feed asks once.
func (p *process) feed(in recovery.Input, cfg *Config) ([]tidegate.Digest, error) {
	late := time.Now().Add(cfg.Wait)
	if err := errors.Join(p.in.SetWriteDeadline(late), p.out.SetReadDeadline(late)); err != nil {
		return nil, err
	}
	if p.answer.Buffered() > 0 {
		return nil, errTwice
	}
	question, err := json.Marshal(struct {
		Position tidegate.Position `json:"position"`
		Input    json.RawMessage   `json:"input"`
	}{in.Position, in.Payload})
	if err != nil {
		return nil, err
	}
	if _, err := p.in.Write(append(question, '\n')); err != nil {
		return nil, broken(err, cfg.Wait)
	}
	line, err := readLine(p.answer)
	if err != nil {
		return nil, broken(err, cfg.Wait)
	}
	return p.take(line, cfg.Volatile)
}

// broken says what an error of a pipe means.
func broken(err error, wait time.Duration) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("no answer within %s", wait)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.EPIPE):
		return errors.New("it ended before it answered")
	}
	return err
}

func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > answerBytesMax:
			return nil, fmt.Errorf("an answer has more than %d MiB", answerBytesMax>>20)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		}
		return line, err
	}
}

// take reads an answer.
func (p *process) take(line []byte, volatile []string) ([]tidegate.Digest, error) {
	var a struct {
		Outputs []json.RawMessage `json:"outputs"`
		State   json.RawMessage   `json:"state"`
		Error   string            `json:"error"`
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return nil, fmt.Errorf("answer %.80q: %w", bytes.TrimSpace(line), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("answer %.80q: something follows the JSON object", bytes.TrimSpace(line))
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	out := make([]tidegate.Digest, 0, len(a.Outputs))
	for _, o := range a.Outputs {
		digest, err := digestOf(o, volatile)
		if err != nil {
			return nil, err
		}
		out = append(out, digest)
	}
	p.state = tidegate.Digest{}
	if len(a.State) > 0 {
		var err error
		if p.state, err = digestOf(a.State, nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// digestOf is the digest of any JSON value, whatever its white space.
func digestOf(value []byte, volatile []string) (tidegate.Digest, error) {
	if value = bytes.TrimSpace(value); len(value) > 0 && value[0] == '{' {
		return recovery.DigestJSON(value, volatile...)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil {
		return tidegate.Digest{}, err
	}
	return recovery.DigestOf(compact.Bytes()), nil
}

// end ends the input, and with it the program: by force if it does not. An error says, too,
// that something was left which it had said.
func (p *process) end() error {
	err := p.in.Close()
	force := time.AfterFunc(endWait, func() { p.group.Kill(p.cmd, syscall.SIGKILL) })
	if !p.failed {
		err = errors.Join(err, p.left())
	}
	_ = p.group.Wait(p.cmd) // how it ends is its own
	force.Stop()
	return errors.Join(err, p.out.Close())
}

// left is an error when the program says anything until it ends.
func (p *process) left() error {
	if err := p.out.SetReadDeadline(time.Now().Add(endWait)); err != nil {
		return err
	}
	for {
		b, err := p.answer.ReadByte()
		switch {
		case err != nil:
			return nil // it has said nothing
		case !bytes.ContainsRune([]byte(" \t\r\n"), rune(b)):
			return errTwice
		}
	}
}

func (p *process) complaints() string {
	// What it wrote before it ended or fell silent may still be on its way: only an aid.
	if text := p.said.text(); text != "" {
		return ": " + text
	}
	return ""
}
