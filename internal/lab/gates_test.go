package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
)

// The gate that leads is killed in the middle of a failover. The other one,
// which shares its etcd, finishes the plan.
func TestFailoverOutlivesItsGate(t *testing.T) {
	s := layOut(t, lab.Plant{Primaries: 1, Gates: 2, Etcd: []string{newRegistry(t).Endpoint}, Tune: func(name string, file map[string]any) {
		soonLed(name, file)
		if strings.HasPrefix(name, "gate") {
			file["gate"].(map[string]any)["timing"].(map[string]any)["fence"] = "5m" // the plan waits for as long as the test needs
		}
	}})
	s.up(t)
	leader := s.leader(t, "")
	s.possible(t) // nodes gather at the gate that leads; before that it cannot judge
	_, old := s.writer(t, s.Primaries(), 0)
	s.KillSite(lab.SitePrimary)
	s.within(t, func(ctx context.Context) error {
		_, err := s.Noticed(ctx)
		return err
	})
	// Nobody promises anything, so the failover stays where it is.
	nodes := signalAll(t, s, syscall.SIGSTOP)
	command := make(chan error, 1)
	go func() { // ends with its command, which the gate's death ends
		_, _, err := s.Failover(t.Context(), "test")
		command <- err
	}()
	id := running(t, s, command)
	t.Logf("kill -9 of %s, which leads, while plan %s fences", leader, id)
	begun := time.Now()
	s.Proc(processOf(leader)).Kill()
	var exit *lab.ExitError
	if err := <-command; !errors.As(err, &exit) || !strings.Contains(exit.Stderr, "it goes on at the gate") {
		t.Errorf("the command said: %v", err)
	}
	for _, p := range nodes {
		if err := p.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "the other gate to finish the plan", func(ctx context.Context) error {
		plan, err := s.Plan(ctx, id)
		if err != nil {
			return err
		}
		if plan.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE || plan.GetController() == leader {
			return fmt.Errorf("%s at %s: %s", plan.GetOutcome(), plan.GetController(), plan.GetError())
		}
		for _, x := range plan.GetStreams() {
			if x.GetLoss().GetKind() != pb.LossKind_LOSS_KIND_ZERO {
				return fmt.Errorf("stream %s: %s: %s", x.GetName(), x.GetLoss().GetKind(), x.GetLoss().GetWhy())
			}
		}
		return nil
	})
	s.flowsAbove(t, "acknowledgements of the DR site", old)
	t.Logf("clients served %s after the gate was killed", since(begun))
	if err := s.Proc(processOf(leader)).Start(); err != nil {
		t.Fatal(err)
	}
	s.nothingLost(t)
	s.wholeLogs(t)
}

// soonLed tunes gates that share an etcd: a leader that is killed is followed soon.
func soonLed(name string, file map[string]any) {
	if strings.HasPrefix(name, "gate") {
		file["gate"].(map[string]any)["registry"].(map[string]any)["leader_ttl"] = "2s"
	}
}

// leader waits for a gate to lead that is not the one named, and returns its name.
func (s *stage) leader(t *testing.T, but string) (name string) {
	t.Helper()
	s.until(t, "a gate to lead", func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if name = st.GetLeader(); err == nil && (name == "" || name == but) {
			err = fmt.Errorf("%q does", name)
		}
		return err
	})
	return name
}

// processOf is the process of a gate, by the name in its certificate.
func processOf(gate string) string {
	if gate == "gate-1" {
		return "gate"
	}
	return gate
}

func signalAll(t *testing.T, s *stage, sig syscall.Signal) []*lab.Proc {
	t.Helper()
	var out []*lab.Proc
	for _, node := range s.Standbys() {
		p := s.Proc("standby-" + node)
		if err := p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// running waits until a failover has reserved its epoch and fences, and returns
// its plan. command tells when the operator's command has ended.
func running(t *testing.T, s *stage, command <-chan error) (id string) {
	t.Helper()
	s.until(t, "the failover to fence", func(ctx context.Context) error {
		select {
		case err := <-command:
			t.Fatalf("the failover ended before it fenced: %v", err)
		default:
		}
		plans, err := s.Plans(ctx)
		if err != nil {
			return err
		}
		for _, p := range plans {
			if p.GetKind() != pb.PlanKind_PLAN_KIND_FAILOVER {
				continue
			}
			for _, step := range p.GetSteps() {
				if strings.HasPrefix(step.GetName(), "F2") && step.GetState() == "running" {
					id = p.GetId()
					return nil
				}
			}
			return fmt.Errorf("plan %s: %s", p.GetId(), p.GetOutcome())
		}
		return errors.New("no failover")
	})
	return id
}

// newRegistry runs an etcd of one member for as long as the test.
func newRegistry(t *testing.T) *lab.Registry {
	t.Helper()
	r, err := lab.NewRegistry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}
