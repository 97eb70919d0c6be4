package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// patience bounds each wait. On a quiet machine the longest takes seconds; the
// rest is for a machine that runs other tests beside this one.
const patience = 90 * time.Second

// binaries is the folder of tidegate, tidegate-agent and ledger, built once.
var binaries string

func TestMain(m *testing.M) {
	code, err := withBinaries(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the binaries:", err)
		code = 1
	}
	os.Exit(code)
}

// withBinaries builds what the labs run. Without the race detector: that is the
// tests' own, and slows a database and a raft cluster down to timeouts.
func withBinaries(run func() int) (code int, err error) {
	if binaries, err = os.MkdirTemp("", "tidegate-lab-bin-"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(binaries)) }()
	cmd := exec.Command("go", "build", "-trimpath", "-o", binaries+"/", "./cmd/tidegate", "./cmd/tidegate-agent", "./examples/ledger")
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	return run(), nil
}

// stage is a lab under test, with its clients.
type stage struct {
	*lab.Lab
	dir  string
	acks *lab.AckTail
}

// layOut makes a lab and starts nothing. When the test fails, the end of every
// process's log is printed, and the directory stays.
func layOut(t *testing.T, p lab.Plant) *stage {
	t.Helper()
	// Below /tmp, because a socket's path must fit into 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "tidegate-lab-") //nolint:usetesting // socket paths must fit into 107 bytes, and a failed lab stays
	if err != nil {
		t.Fatal(err)
	}
	p.Dir, p.Bin = dir, binaries
	l, err := lab.New(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if t.Failed() {
			t.Logf("logs and data are left in %s\n%s", dir, lab.Tails(dir, 30))
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return &stage{Lab: l, dir: dir, acks: l.Tail()}
}

// up starts everything, then the clients, and waits for their first transfers.
func (s *stage) up(t *testing.T) {
	t.Helper()
	begun := time.Now()
	s.within(t, func(ctx context.Context) error { return s.Up(ctx, func(string) {}) })
	if err := s.StartLoad("--accounts", "50", "--workers", "8", "--try-timeout", "1s"); err != nil {
		t.Fatal(err)
	}
	s.flows(t, "the first transfers")
	t.Logf("up after %s", since(begun))
}

// within ends the test with f's error.
func (s *stage) within(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func (s *stage) until(t *testing.T, what string, cond func(context.Context) error) {
	t.Helper()
	s.within(t, func(ctx context.Context) error { return s.Until(ctx, what, cond) })
}

// flows waits until clients get acknowledgements of every stream from now on.
func (s *stage) flows(t *testing.T, what string) {
	t.Helper()
	s.flowsAbove(t, what, 0)
}

// flowsAbove waits for acknowledgements of every stream under epochs above one.
func (s *stage) flowsAbove(t *testing.T, what string, e tidegate.Epoch) {
	t.Helper()
	begun := time.Now()
	s.until(t, what, func(context.Context) error {
		if err := s.acks.Read(); err != nil {
			return err
		}
		for _, c := range ledger.Currencies() {
			if _, ok := s.acks.First(c, e); !ok {
				return fmt.Errorf("no acknowledgement of %s above epoch %d", c, e)
			}
			if n := s.acks.Since(c, begun); n < 20 {
				return fmt.Errorf("%d acknowledgements of %s", n, c)
			}
		}
		return nil
	})
}

// still waits until clients have had no acknowledgement for a while.
func (s *stage) still(t *testing.T, what string, span time.Duration) {
	t.Helper()
	s.until(t, what, func(context.Context) error {
		if err := s.acks.Read(); err != nil {
			return err
		}
		if age := time.Since(s.acks.Newest()); age < span {
			return fmt.Errorf("the newest acknowledgement is %s old", age)
		}
		return nil
	})
}

// ask runs a command that must end with a code, and returns all it printed.
func (s *stage) ask(t *testing.T, code int, bin string, args ...string) string {
	t.Helper()
	return s.judgeCommand(t, code, s.Bin(bin), args...)
}

// judgeCommand is ask for a program that is not the lab's.
func (s *stage) judgeCommand(t *testing.T, code int, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := s.Command(ctx, path, args...)
	return s.judge(t, code, out, err)
}

// operate runs an operator's command that must end with a code.
func (s *stage) operate(t *testing.T, code int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := s.Tidegate(ctx, args...)
	return s.judge(t, code, out, err)
}

func (s *stage) judge(t *testing.T, code int, out []byte, err error) string {
	t.Helper()
	exit, failed := errors.AsType[*lab.ExitError](err)
	switch {
	case err != nil && !failed:
		t.Fatal(err)
	case failed && exit.Code != code:
		t.Fatalf("want exit code %d: %v", code, err)
	case failed:
		return exit.Stderr
	case code != 0:
		t.Fatalf("want exit code %d, got 0: %s", code, out)
	}
	return string(out)
}

// says fails the test unless text holds every part.
func says(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("want %q in:\n%s", p, text)
		}
	}
}

// member returns what the gate knows of a standby node's part in every stream.
func (s *stage) member(ctx context.Context, node string) ([]*pb.MemberStatus, error) {
	st, err := s.Status(ctx)
	if err != nil {
		return nil, err
	}
	var out []*pb.MemberStatus
	for _, svc := range st.GetServices() {
		for _, x := range svc.GetStreams() {
			i := slices.IndexFunc(x.GetMembers(), func(m *pb.MemberStatus) bool { return m.GetNode() == node })
			if i < 0 {
				return nil, fmt.Errorf("%s: no member %s", x.GetView().GetName(), node)
			}
			out = append(out, x.GetMembers()[i])
		}
	}
	if len(out) != len(lab.Currencies) {
		return nil, fmt.Errorf("%d streams", len(out))
	}
	return out, nil
}

// counts waits until a standby node counts towards D in every stream, and holds
// what is durable now: what the gate was told of it before does not do.
func (s *stage) counts(t *testing.T, node string) {
	t.Helper()
	due := map[string]tidegate.Seq{}
	s.until(t, "what the writer holds durable", func(ctx context.Context) error {
		for _, m := range s.Primaries() {
			st, err := s.agentStatus(ctx, m)
			if err != nil {
				continue // down, or not the writer
			}
			for _, x := range st.Streams {
				if x.State == agent.StateWriting {
					due[x.ID.String()] = x.Writer.DurableSeq
				}
			}
		}
		if len(due) != len(lab.Currencies) {
			return fmt.Errorf("%d streams are written", len(due))
		}
		return nil
	})
	s.until(t, node+" to count towards D", func(ctx context.Context) error {
		ms, err := s.member(ctx, node)
		if err != nil {
			return err
		}
		for _, m := range ms {
			if !m.GetCounted() || m.GetStream().GetLimbo() {
				return fmt.Errorf("counted: %t, limbo: %t, %s", m.GetCounted(), m.GetStream().GetLimbo(), m.GetStream().GetError())
			}
			id, durable := m.GetStream().GetStreamId(), tidegate.Seq(m.GetStream().GetDurable().GetSeq())
			if durable < due[id] {
				return fmt.Errorf("stream %.8s: durable %s, want %s", id, durable, due[id])
			}
		}
		return nil
	})
}

// agentStatus asks an agent.
func (s *stage) agentStatus(ctx context.Context, machine string) (st agent.Status, err error) {
	return st, lab.GetJSON(ctx, s.AgentURL(machine)+"/status", &st)
}

// writer waits for the machine whose agent writes every stream in an epoch above
// one, and returns it and the highest of the epochs.
func (s *stage) writer(t *testing.T, machines []string, above tidegate.Epoch) (name string, epoch tidegate.Epoch) {
	t.Helper()
	s.until(t, "a writer", func(ctx context.Context) error {
		var last error
		for _, m := range machines {
			st, err := s.agentStatus(ctx, m)
			if err != nil {
				last = err
				continue
			}
			if e, ok := writing(st); ok && e > above {
				name, epoch = m, e
				return nil
			}
		}
		return errors.Join(errors.New("no agent writes"), last)
	})
	return name, epoch
}

// writing reports whether an agent writes every stream, and the highest epoch.
func writing(st agent.Status) (highest tidegate.Epoch, ok bool) {
	for _, x := range st.Streams {
		if x.State != agent.StateWriting {
			return 0, false
		}
		highest = max(highest, x.Epoch)
	}
	return highest, len(st.Streams) > 0
}

// nothingLost stops the clients and compares what they were told with what the
// service behind the route holds.
func (s *stage) nothingLost(t *testing.T) {
	t.Helper()
	if _, err := s.StopLoad(patience); err != nil {
		t.Fatal(err)
	}
	s.within(t, func(ctx context.Context) error {
		r, err := s.Check(ctx, s.Route())
		if err != nil {
			return err
		}
		t.Logf("acknowledged %d, recovered %d, lost %d", r.Acknowledged, r.Recovered, r.Lost)
		if r.Lost > 0 || !r.Sound || r.Acknowledged == 0 {
			return fmt.Errorf("acknowledged %d, recovered %d, lost %d, books sound: %t", r.Acknowledged, r.Recovered, r.Lost, r.Sound)
		}
		return nil
	})
}

// wholeLogs ends every process and reads each stream's delta log at each node:
// no gap, no duplicate, and all the same as far as they go.
func (s *stage) wholeLogs(t *testing.T) {
	t.Helper()
	s.Close()
	for _, stream := range streamDirs(t, s.StandbyDir("d1")) {
		var logs []lab.Chain
		for _, node := range s.Standbys() {
			c, err := lab.ReadLog(t.Context(), filepath.Join(s.StandbyDir(node), "streams", stream), filepath.Join(t.TempDir(), node), node)
			if err != nil {
				t.Error(err)
				continue
			}
			logs = append(logs, c)
		}
		for _, c := range logs {
			if err := logs[0].Differ(c); err != nil {
				t.Error(err)
			}
			t.Logf("stream %.8s at %s: %d batches of %d epochs, no gap, no duplicate", stream, c.Node, len(c.Chains), c.Epochs)
		}
	}
}

func streamDirs(t *testing.T, standby string) []string {
	t.Helper()
	dirs, err := os.ReadDir(filepath.Join(standby, "streams"))
	if err != nil || len(dirs) != len(lab.Currencies) {
		t.Fatalf("streams at %s: %d, %v", standby, len(dirs), err)
	}
	var out []string
	for _, d := range dirs {
		out = append(out, d.Name())
	}
	return out
}

// failover loses the primary site and lets the DR site take over, with zero loss
// proven, and waits for clients to be served there.
func (s *stage) failover(t *testing.T) *pb.Plan {
	t.Helper()
	_, old := s.writer(t, s.Primaries(), 0)
	begun := time.Now()
	s.KillSite(lab.SitePrimary)
	var plan *pb.Plan
	s.within(t, func(ctx context.Context) error {
		if _, err := s.Noticed(ctx); err != nil {
			return err
		}
		text, p, err := s.Failover(ctx, "the test lost the primary site")
		if err != nil {
			t.Log(text)
		}
		plan = p
		return err
	})
	if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE {
		t.Fatalf("the failover ended as %s", plan.GetOutcome())
	}
	for _, x := range plan.GetStreams() {
		if x.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_ZERO {
			t.Errorf("stream %s: want zero loss proven, got %s: %s", x.GetName(), x.GetLoss().GetKind(), x.GetLoss().GetWhy())
		}
	}
	s.flowsAbove(t, "acknowledgements of the DR site", old)
	t.Logf("failed over, clients served after %s", since(begun))
	return plan
}

func since(when time.Time) time.Duration { return time.Since(when).Round(time.Millisecond) }
