package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/lab"
)

// smallDisk is d3's, less than its node's reserve and a little more.
const smallDisk = 256 << 20

// A whole Tidegate in sync mode under load, which meets one fault after the other
// and in the end loses its primary site. Nothing acknowledged may be missing
// then, and the logs of all standby nodes must be whole and equal.
func TestFaults(t *testing.T) {
	var s *stage
	s = layOut(t, lab.Plant{Tune: func(name string, file map[string]any) {
		if strings.HasPrefix(name, "gate") {
			file["gate"].(map[string]any)["drills"] = map[string]any{"keys": []string{s.File("drill.pub")}}
		}
	}})
	mountSmall(t, s)
	signingKey(t, s)
	s.up(t)
	prometheus := startPrometheus(t, s)
	for _, fault := range []struct {
		name string
		run  func(*testing.T, *stage)
	}{
		{"Drill", drill},
		{"Alerts", prometheus.alerts},
		{"Stranger", stranger},
		{"DamagedLog", damagedLog},
		{"WipedStandby", wipedStandby}, // d2, whose log is damaged by now
		{"ControlPlaneGone", controlPlaneGone},
		{"DiskFull", diskFull},
		{"FailedSync", failedSync},
		{"Handover", handover},
		{"Crossing", crossing},
	} {
		begun := time.Now()
		ok := t.Run(fault.name, func(t *testing.T) { fault.run(t, s) })
		t.Logf("%s: %s", fault.name, since(begun))
		if !ok {
			t.Fatalf("%s failed: what follows needs a whole lab", fault.name)
		}
	}
}

// mountSmall gives d3 a disk that a test can fill.
func mountSmall(t *testing.T, s *stage) {
	t.Helper()
	dir := s.StandbyDir("d3")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0750", smallDisk)); err != nil {
		t.Fatalf("mount a small disk at %s: %v\nthis test needs root and CAP_SYS_ADMIN: sudo -E go test ./internal/lab", dir, err)
	}
	t.Cleanup(func() {
		s.Close()
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// A node that lost its disk does not start by itself, comes back by an explicit
// format, counts for nothing until it holds everything again, and then counts.
func wipedStandby(t *testing.T, s *stage) {
	node, conf := s.Proc("standby-d2"), s.File("d2", "standby.yaml")
	node.Kill()
	if err := os.RemoveAll(s.StandbyDir("d2")); err != nil {
		t.Fatal(err)
	}
	says(t, s.ask(t, 2, "tidegate", "standby", "run", "--config", conf), "not formatted", "hint: ", "tidegate standby format")
	says(t, s.ask(t, 0, "tidegate", "standby", "format", "--config", conf), "formatted for d2")
	s.flows(t, "transfers with two of three nodes")

	// Without a gate nobody leaves limbo, so there is time to look.
	gate := s.Proc("gate")
	if err := gate.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	s.flows(t, "transfers while d2 is in limbo")
	d1 := s.Proc("standby-d1")
	d1.Kill()
	s.still(t, "D to stop: d3 alone counts", 1500*time.Millisecond)
	if err := d1.Start(); err != nil {
		t.Fatal(err)
	}
	s.flows(t, "transfers with d1 and d3")
	if err := gate.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.counts(t, "d2")

	// Now d2 counts: with it, another node may be missing.
	d1.Kill()
	s.flows(t, "transfers with d2 and d3")
	if err := d1.Start(); err != nil {
		t.Fatal(err)
	}
	s.counts(t, "d1")
}

// With the gate and its etcd gone transfers are acknowledged all the same; only
// role changes wait, and say so.
func controlPlaneGone(t *testing.T, s *stage) {
	gate := s.Proc("gate")
	name, epoch := s.writer(t, s.Primaries(), 0)

	if err := gate.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	says(t, s.operate(t, 8, "status"), "hint: ")
	s.flows(t, "transfers with the gate frozen")
	gate.Kill()
	says(t, s.operate(t, 8, "status"), "hint: ")
	says(t, s.operate(t, 8, "failover", "--reason", "test", lab.Service), "hint: ")
	s.flows(t, "transfers with the gate gone")

	proc := s.Proc("agent-" + name)
	proc.Kill()
	if err := proc.Start(); err != nil {
		t.Fatal(err)
	}
	s.until(t, "the restarted agent to say why it does not write", func(ctx context.Context) error {
		st, err := s.agentStatus(ctx, name)
		if err != nil {
			return err
		}
		for _, x := range st.Streams {
			if x.State != agent.StateAcquiring || x.Waiting == "" {
				return fmt.Errorf("%s is %s, waiting for %q", x.Stream, x.State, x.Waiting)
			}
		}
		if st.GateReached {
			return errors.New("it reaches a gate")
		}
		return nil
	})
	says(t, s.ask(t, 12, "tidegate-agent", "status", "--config", s.File(name, "agent.yaml")), "no gate answers", "a restart of the writer waits", "acquiring")
	s.still(t, "transfers to wait for a writer", time.Second)

	begun := time.Now()
	if err := gate.Start(); err != nil {
		t.Fatal(err)
	}
	s.flowsAbove(t, "transfers of a new epoch", epoch)
	t.Logf("the gate is back, clients served after %s", since(begun))
	s.until(t, "the gate to be safe", func(ctx context.Context) error {
		_, err := s.Tidegate(ctx, "status")
		return err
	})
}

// A full disk at one node: it says full, the others go on, and with room it
// catches up.
func diskFull(t *testing.T, s *stage) {
	ballast := filepath.Join(s.StandbyDir("d3"), "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}
	s.flows(t, "transfers with two of three nodes")
	s.until(t, "d3 to say that it is full", func(ctx context.Context) error {
		ms, err := s.member(ctx, "d3")
		if err != nil {
			return err
		}
		for _, m := range ms {
			if !strings.Contains(m.GetStream().GetError(), "full") || m.GetCounted() {
				return fmt.Errorf("counted: %t, it says %q", m.GetCounted(), m.GetStream().GetError())
			}
		}
		return nil
	})
	s.flows(t, "transfers with d3 full")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s.counts(t, "d3")
	s.Proc("standby-d1").Kill()
	s.flows(t, "transfers with d2 and d3")
	if err := s.Proc("standby-d1").Start(); err != nil {
		t.Fatal(err)
	}
	s.counts(t, "d1")
}

// fill writes a file until the disk is full.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		_, err := f.Write(block)
		switch {
		case errors.Is(err, unix.ENOSPC):
			block = block[:len(block)/2] // to the last byte
		case err != nil:
			return err
		}
	}
	return nil
}

// An fdatasync fails at one node: it acknowledges nothing more and ends. When it
// starts again it does not believe the tail that the sync was for.
func failedSync(t *testing.T, s *stage) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Fatal("wants strace to make a system call fail; run: sudo apt-get install strace")
	}
	for range 4 {
		s.failsSync(t, strace)
		if strings.Contains(s.log(t, "standby-d2"), "tail of a failed sync moved to quarantine") {
			return
		}
		// The first that failed was of a log with nothing new: there was no tail to doubt.
	}
	t.Error("no tail of a failed sync was moved to quarantine")
}

// failsSync has an fdatasync of d2's log fail, and starts the node again.
func (s *stage) failsSync(t *testing.T, strace string) {
	t.Helper()
	node := s.Proc("standby-d2")
	node.Kill()
	// The first calls of each thread succeed, so that the node gets to work; and
	// only the log's, so that it can note what is in doubt.
	args := []string{"-f", "-qq", "-o", os.DevNull, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=4+"}
	segments, err := filepath.Glob(filepath.Join(s.StandbyDir("d2"), "streams", "*", "log", "*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments of d2: %v, %v", segments, err)
	}
	for _, path := range segments {
		args = append(args, "-P", path)
	}
	text := s.judgeCommand(t, 1, strace, append(args, node.Args...)...)
	says(t, text, "sync", "input/output error", "node stops")
	s.flows(t, "transfers with two of three nodes")
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	s.counts(t, "d2")
}

// The machine that writes dies, service and agent: another one takes over.
func handover(t *testing.T, s *stage) {
	from, epoch := s.writer(t, s.Primaries(), 0)
	begun := time.Now()
	procs := []*lab.Proc{s.Proc("agent-" + from), s.Proc("ledger-" + from)}
	for _, p := range procs {
		p.Kill()
	}
	to, next := s.writer(t, s.Primaries(), epoch)
	took := since(begun)
	s.flowsAbove(t, "transfers of the new writer", epoch)
	t.Logf("handover from %s (epoch %d) to %s (epoch %d): writer after %s, clients served after %s", from, epoch, to, next, took, since(begun))
	for _, p := range procs {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
	s.flows(t, "transfers with everything up")
}

// The primary site is lost, and everything acknowledged is at the DR site.
func crossing(t *testing.T, s *stage) {
	s.failover(t)
	s.nothingLost(t)
	s.wholeLogs(t)
}
