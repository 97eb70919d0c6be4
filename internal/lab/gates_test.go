package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
)

// The gate that leads is killed in the middle of a failover. The other one,
// which shares its etcd, finishes the plan.
func TestFailoverOutlivesItsGate(t *testing.T) {
	s := layOut(t, lab.Plant{Primaries: 1, Gates: 2, Etcd: []string{startEtcd(t)}, Tune: func(name string, file map[string]any) {
		if !strings.HasPrefix(name, "gate") {
			return
		}
		gate := file["gate"].(map[string]any)
		gate["timing"].(map[string]any)["fence"] = "5m" // the plan waits for as long as the test needs
		gate["registry"].(map[string]any)["leader_ttl"] = "2s"
	}})
	s.up(t)
	var leader string
	s.until(t, "a gate to lead", func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if leader = st.GetLeader(); err == nil && leader == "" {
			err = errors.New("none does")
		}
		return err
	})
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

// startEtcd runs an etcd of one member, as an existing cluster that gates share,
// and returns its endpoint.
func startEtcd(t *testing.T) string { return newEtcd(t).endpoint }

// etcd is a registry of one member in this process, which can go away and come back.
type etcd struct {
	endpoint string
	cfg      *embed.Config
	running  *embed.Etcd
}

func newEtcd(t *testing.T) *etcd {
	t.Helper()
	addr, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	client := url.URL{Scheme: "http", Host: addr}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"} // its name only: a cluster of one dials nobody
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.LogLevel = "shared", dir+"/etcd", "error"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Path: dir + "/peer.sock"}}, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	e := &etcd{endpoint: client.String(), cfg: cfg}
	e.start(t)
	t.Cleanup(e.stop)
	return e
}

func (e *etcd) start(t *testing.T) {
	t.Helper()
	running, err := embed.StartEtcd(e.cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.running = running
	select {
	case <-running.Server.ReadyNotify():
	case err := <-running.Err():
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("etcd is not ready")
	}
}

// stop ends it; what it holds stays in its directory.
func (e *etcd) stop() {
	if e.running != nil {
		e.running.Close()
		e.running = nil
	}
}
