package gating

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/registry"
)

// cable is a socket to the registry that can be pulled: whoever uses it is then
// cut off without a word, as a machine is that loses power.
type cable struct {
	path string
	stop func()
}

func (s *site) cable(to string) *cable {
	s.t.Helper()
	c := &cable{path: filepath.Join(s.dir, "cable.sock")}
	l, err := net.Listen("unix", c.path)
	if err != nil {
		s.t.Fatal(err)
	}
	var mu sync.Mutex
	var open []net.Conn
	var wg sync.WaitGroup
	keep := func(n net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, n)
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			keep(in)
			keep(out)
			for _, d := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(d[0], d[1])
					_ = d[0].Close()
				})
			}
		}
	})
	c.stop = sync.OnceFunc(func() {
		_ = l.Close()
		mu.Lock()
		for _, n := range open {
			_ = n.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	s.t.Cleanup(c.stop)
	return c
}

// A leader that is gone without resigning is waited for until its lease has run
// out; then another gate finishes its plan, and it can write nothing any more.
func TestLostLeaderIsReplacedWhenItsLeaseEnds(t *testing.T) {
	t.Parallel()
	s, ids, recs := ready(t, pb.Mode_MODE_SYNC, nil)
	s.write(recs[0], 3, "w1", "w2")
	s.gate.stop()
	cable := s.cable(filepath.Join(s.dir, "r", "etcd.sock"))
	direct := s.registry
	s.registry.Endpoints = []string{"unix://" + cable.path}
	reached := make(chan fence.PlanStep, 1)
	lost := make(chan struct{})
	s.startGate("gate-lost", func(step fence.PlanStep, _ int) {
		if step == fence.StepAdopt {
			select {
			case reached <- step:
				<-lost
			default:
			}
		}
	}, nil)
	old := s.gate
	for n := range s.nodes {
		s.agent(n, "west")
	}
	s.report()
	asked := make(chan struct{})
	go func() { // ends with the gate's answer: at the latest when the gate stops
		defer close(asked)
		s.eventuallyQuiet(func() bool {
			_, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"})
			return err == nil || len(reached) > 0 || tidegate.ClassOf(err) != tidegate.Transient
		})
	}()
	step := <-reached
	reached <- step // nobody else may stop there
	before := s.registryOf(direct).revisions(ids)
	cable.stop()
	close(lost)

	s.registry = direct
	s.startGate("gate-next", nil, nil)
	s.report()
	s.eventually("the next gate to finish the plan", func() error {
		r, err := s.operator(tidegate.RoleViewer).ListPlans(t.Context(), connect.NewRequest(&pb.ListPlansRequest{Service: "ledger", Limit: 1}))
		if err != nil {
			return err
		}
		if p := r.Msg.GetPlans()[0]; p.GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_DONE || p.GetController() != "gate-next" {
			return fmt.Errorf("plan %s of %s is %s: %s", p.GetId(), p.GetController(), p.GetOutcome(), p.GetError())
		}
		return nil
	})
	for name, rec := range s.records(ids) {
		if rec.State != fence.StateActive || rec.Holder.Node != "w1" || rec.Epoch != 2 {
			t.Errorf("stream %s: %+v", name, rec)
		}
	}
	if after := s.revisions(ids); after["a"] <= before["a"] {
		t.Errorf("epoch key at revision %d, was %d when the leader was lost", after["a"], before["a"])
	}
	old.stop()
	<-asked
}

// registryOf is the site seen through another configuration of its registry.
func (s *site) registryOf(cfg registry.Config) *site {
	other := *s
	other.registry = cfg
	return &other
}

// A registry that is put back from an older backup while the gate runs is
// noticed without a restart: nothing is claimed until a live writer re-arms.
func TestRegistryRestoredUnderARunningGate(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	member := registry.Config{Dir: filepath.Join(s.dir, "r")}.SetDefaults()
	data, backup := filepath.Join(member.Dir, "etcd"), filepath.Join(s.dir, "backup")
	s.stopEtcd()
	if err := os.CopyFS(backup, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	s.startEtcd(member)
	op := s.operator(tidegate.RoleOperator)
	// Life goes on: the registry is far beyond the backup.
	s.eventually("changes after the backup", func() error {
		for range 5 {
			if _, err := op.PauseStream(t.Context(), connect.NewRequest(&pb.PauseStreamRequest{Service: "ledger", Stream: "a"})); err != nil {
				return err
			}
			if _, err := op.ResumeStream(t.Context(), connect.NewRequest(&pb.ResumeStreamRequest{Service: "ledger", Stream: "a"})); err != nil {
				return err
			}
		}
		return nil
	})
	suspect := func() (bool, error) {
		r, err := op.Status(t.Context(), connect.NewRequest(&pb.StatusRequest{}))
		if err != nil {
			return false, err
		}
		return r.Msg.GetRegistrySuspect(), nil
	}
	if is, err := suspect(); is || err != nil {
		t.Fatalf("suspect %v, %v: etcd was only restarted", is, err)
	}
	s.stopEtcd()
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(data, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	s.startEtcd(member)
	s.eventually("the gate to notice", func() error {
		if is, err := suspect(); err != nil {
			return err
		} else if !is {
			return errors.New("not suspect")
		}
		for name, rec := range s.records(ids) {
			if !rec.Restored || rec.Gate.State != fence.GateUnknown {
				return fmt.Errorf("stream %s: %+v", name, rec.Gate)
			}
		}
		return nil
	})
	s.report()
	if _, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"}); tidegate.ClassOf(err) == tidegate.Transient {
		s.eventually("the gate to lead again", func() error {
			_, _, err = s.failover(&pb.ChangeRoleRequest{Target: "w1"})
			if tidegate.ClassOf(err) == tidegate.Transient {
				return err
			}
			return nil
		})
	} else if tidegate.ClassOf(err) != tidegate.Refused {
		t.Fatalf("failover on a registry that went back in time: %v", err)
	}
	// A live writer re-arms, and claims are sound again.
	for _, name := range []string{"a", "b"} {
		read, err := s.node(tidegate.RoleAgent, "east", "e1").ReadEpoch(t.Context(), connect.NewRequest(&pb.ReadEpochRequest{StreamId: ids[name].String()}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.node(tidegate.RoleAgent, "east", "e1").RecordGate(t.Context(), connect.NewRequest(&pb.RecordGateRequest{
			StreamId: ids[name].String(), Epoch: 1, Holder: s.agents["e1"].String(), Revision: read.Msg.GetEpoch().GetRevision(), Was: read.Msg.GetEpoch().GetGate(),
			Gate: &pb.GateRecord{State: pb.GateState_GATE_STATE_ARMED, Mode: pb.Mode_MODE_SYNC, SinceSeq: 1},
		}))
		if rec := s.records(ids)[name]; err != nil || rec.Restored || rec.Gate.State != fence.GateArmed {
			t.Errorf("after the writer of %s re-armed: %+v, %v", name, rec, err)
		}
	}
	s.eventually("the registry to be trusted again", func() error {
		if is, err := suspect(); err != nil || is {
			return errors.Join(fmt.Errorf("suspect %t", is), err)
		}
		return nil
	})
}
