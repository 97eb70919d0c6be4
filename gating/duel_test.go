package gating

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
)

// verb is one command of an operator.
type verb struct {
	name string
	run  func(*site) error
}

func (s *site) verbs() []verb {
	op := s.operator(tidegate.RoleOperator)
	ctx := s.t.Context()
	var turn atomic.Uint32
	role := func(kind pb.PlanKind, target string, loss bool) func(*site) error {
		return func(s *site) error {
			_, _, err := s.change(&pb.ChangeRoleRequest{
				Kind: kind, Target: target, AcceptLoss: loss, AttestPrimaryDown: loss, Reason: "duel", DrainTimeout: durationpb.New(150 * time.Millisecond),
			})
			return err
		}
	}
	unary := func(call func() error) func(*site) error {
		return func(*site) error { return api.FromError("duel", "ledger", call()) }
	}
	return []verb{
		{"failover", role(pb.PlanKind_PLAN_KIND_FAILOVER, "", true)},
		{"takeover", role(pb.PlanKind_PLAN_KIND_TAKEOVER, "", true)},
		{"switchover", role(pb.PlanKind_PLAN_KIND_SWITCHOVER, "", false)},
		{"failback", role(pb.PlanKind_PLAN_KIND_FAILBACK, "", false)},
		{"reconfigure", func(s *site) error {
			stream, err := op.Reconfigure(ctx, connect.NewRequest(&pb.ReconfigureRequest{Service: "ledger", Members: []string{"w1", "w2", "w3"}, W: 2 + turn.Add(1)%2}))
			if err != nil {
				return api.FromError("reconfigure", "", err)
			}
			defer func() { _ = stream.Close() }()
			for stream.Receive() {
			}
			return api.FromError("reconfigure", "", stream.Err())
		}},
		{"abort", func(s *site) error {
			plans, _ := s.plansBefore("", 1)
			for deadline := time.Now().Add(100 * time.Millisecond); time.Now().Before(deadline) && plans[0].GetOutcome() != pb.PlanOutcome_PLAN_OUTCOME_RUNNING; {
				plans, _ = s.plansBefore("", 1)
			}
			_, err := op.AbortPlan(ctx, connect.NewRequest(&pb.AbortPlanRequest{Id: plans[0].GetId(), Reason: "duel"}))
			return api.FromError("abort", "", err)
		}},
		{"freeze", unary(func() error {
			_, err := op.Freeze(ctx, connect.NewRequest(&pb.FreezeRequest{Service: "ledger", Frozen: true, Reason: "duel"}))
			return err
		})},
		{"thaw", unary(func() error {
			_, err := op.Freeze(ctx, connect.NewRequest(&pb.FreezeRequest{Service: "ledger"}))
			return err
		})},
		{"open", unary(func() error {
			_, err := op.OpenGate(ctx, connect.NewRequest(&pb.OpenGateRequest{Service: "ledger", Reason: "duel"}))
			return err
		})},
		{"arm", unary(func() error {
			_, err := op.ArmGate(ctx, connect.NewRequest(&pb.ArmGateRequest{Service: "ledger"}))
			return err
		})},
		{"set mode", unary(func() error {
			_, err := op.SetMode(ctx, connect.NewRequest(&pb.SetModeRequest{Service: "ledger", Mode: pb.Mode_MODE_BOUNDED, Bounds: &pb.Bounds{Window: durationpb.New(time.Second)}}))
			return err
		})},
		{"add stream", unary(func() error {
			_, err := op.AddStream(ctx, connect.NewRequest(&pb.AddStreamRequest{Service: "ledger", Name: "c", Mode: pb.Mode_MODE_SYNC, Members: []string{"w1", "w2", "w3"}, W: 2}))
			return err
		})},
		{"remove stream", unary(func() error {
			_, err := op.RemoveStream(ctx, connect.NewRequest(&pb.RemoveStreamRequest{Service: "ledger", Stream: "b"}))
			return err
		})},
		{"pause", unary(func() error {
			_, err := op.PauseStream(ctx, connect.NewRequest(&pb.PauseStreamRequest{Service: "ledger", Stream: "a", Reason: "duel"}))
			return err
		})},
		{"resume", unary(func() error {
			_, err := op.ResumeStream(ctx, connect.NewRequest(&pb.ResumeStreamRequest{Service: "ledger", Stream: "a"}))
			return err
		})},
	}
}

// Every pair of commands given at the same moment: each is answered by a success
// or a typed refusal, and what is left is consistent.
func TestEveryPairOfCommandsAtOnce(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a minute of real etcd")
	}
	// Several sites at once, each with its share: most of the time is waiting.
	for shard := range duelShards {
		t.Run(fmt.Sprintf("shard %d", shard), func(t *testing.T) {
			t.Parallel()
			duels(t, shard)
		})
	}
}

const duelShards = 4

func duels(t *testing.T, shard int) {
	s := newSite(t, "w1", "w2", "w3")
	s.startGate("gate-a", nil, func(c *Config) {
		c.Timing.Lease, c.Timing.Route, c.Timing.Fence, c.Timing.Adopt = 200*time.Millisecond, 200*time.Millisecond, 500*time.Millisecond, time.Second
	})
	s.register()
	for n := range s.nodes {
		s.agent(n, "west")
	}
	s.agent("e1", "east")
	stop := s.reporting()
	defer stop()
	verbs := s.verbs()
	n := 0
	for i, a := range verbs {
		for _, b := range verbs[i:] {
			if n++; n%duelShards == shard {
				s.duel(a, b)
			}
		}
	}
}

// duel lets two commands run at once against a service of its own making, and
// looks at what they leave.
func (s *site) duel(a, b verb) {
	s.t.Helper()
	pair := a.name + " and " + b.name
	s.fresh()
	errs := make([]error, 2)
	var both sync.WaitGroup
	for i, v := range []verb{a, b} {
		both.Go(func() { errs[i] = v.run(s) })
	}
	both.Wait()
	s.t.Logf("%s: %v / %v", pair, errs[0], errs[1])
	for i, err := range errs {
		if err == nil {
			continue
		}
		if c := tidegate.ClassOf(err); c != tidegate.Refused && c != tidegate.Transient && c != tidegate.Misuse && c != tidegate.Fenced || errors.Is(err, context.DeadlineExceeded) {
			s.t.Errorf("%s: %s was answered %v (class %s)", pair, []string{a.name, b.name}[i], err, c)
		}
		if c := tidegate.ClassOf(err); c == tidegate.Refused && tidegate.HintOf(err) == "" {
			s.t.Errorf("%s: the refusal %v has no hint", pair, err)
		}
	}
	s.consistent(pair, a.name, b.name, errs)
}

// consistent looks at the registry after a duel.
func (s *site) consistent(pair, a, b string, errs []error) {
	s.t.Helper()
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	v, err := store.Read(s.t.Context())
	if err != nil {
		s.t.Fatalf("%s: %v", pair, err)
	}
	s.eventually(pair+": every plan has an end", func() error { // a gate that leads anew takes it up
		newest, _, err := s.tryPlans("", 20) // far more than two commands can make
		if err != nil {
			return err
		}
		for _, p := range newest {
			if p.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_RUNNING {
				return fmt.Errorf("this one runs: %v", p)
			}
		}
		return nil
	})
	svc := v.Services["ledger"].Value
	s.eventually(pair+": a writer that drains for nobody", func() error { // the leading gate lets it go on within a second
		v, err := store.Read(s.t.Context())
		if err == nil && switching(v, "ledger") {
			err = errors.New("left switching")
		}
		return err
	})
	had := func(name string) bool { return a == name && errs[0] == nil || b == name && errs[1] == nil }
	if had("freeze") && !had("thaw") && !svc.Frozen {
		s.t.Errorf("%s: the freeze was lost", pair)
	}
	if had("open") && !had("arm") && !svc.Disarmed {
		s.t.Errorf("%s: the brake was lost", pair)
	}
	for _, st := range v.StreamsOf("ledger") {
		e, ok := v.Epochs[st.ID]
		if !ok {
			s.t.Errorf("%s: stream %s has no record", pair, st.Name)
			continue
		}
		if had("open") && !had("arm") && st.Name != "c" && st.Brake == nil {
			s.t.Errorf("%s: the brake of %s was lost", pair, st.Name)
		}
		if had("pause") && !had("resume") && st.Name == "a" && !st.Paused {
			s.t.Errorf("%s: the pause was lost", pair)
		}
		if had("set mode") && st.Mode != tidegate.ModeBounded && st.Name != "c" {
			s.t.Errorf("%s: the mode of %s was lost", pair, st.Name)
		}
		if err := e.Value.Validate(); err != nil {
			s.t.Errorf("%s: %v", pair, err)
		}
	}
	if had("remove stream") {
		if _, ok := v.Stream("ledger", "b"); ok {
			s.t.Errorf("%s: the removal was lost", pair)
		}
	}
	if had("add stream") {
		if _, ok := v.Stream("ledger", "c"); !ok {
			s.t.Errorf("%s: the stream that was added was lost", pair)
		}
	}
}

// fresh makes the service anew: two streams in epoch 1 of the writer at east.
func (s *site) fresh() {
	s.t.Helper()
	store, err := registry.Open("demo", s.registry)
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	s.eventually("an idle service", func() error {
		v, err := store.Read(s.t.Context())
		if err != nil {
			return err
		}
		tx := new(registry.Tx)
		for id, e := range v.Streams {
			tx.Delete(registry.StreamKey(id)).Delete(registry.EpochKey(id)).Delete(registry.NameKey(e.Value.Service, e.Value.Name))
		}
		if v.Services["ledger"].Revision != 0 {
			tx.Delete(registry.ServiceKey("ledger"))
		}
		if _, ok := v.Routes["ledger"]; ok {
			tx.Delete(registry.RouteKey("ledger"))
		}
		if err := forgetPlans(s.t.Context(), store, tx); err != nil {
			return err
		}
		_, err = store.Commit(s.t.Context(), tx)
		return err
	})
	ids := s.addStreams(pb.Mode_MODE_SYNC, nil)
	s.eventually("a writer", func() error {
		recs, err := s.acquire("e1", "east")
		if err == nil && len(recs) != 2 {
			err = fmt.Errorf("%d streams", len(recs))
		}
		return err
	})
	s.learn(ids)
	s.eventually("reports", func() error { return s.tryReport(s.t.Context()) })
}

// forgetPlans deletes the plans of earlier duels that have ended: gates read all plans
// of a service over and over, which would take most of a shard's time. The newest
// stays, so that there is one to abort.
func forgetPlans(ctx context.Context, store *registry.Store, tx *registry.Tx) error {
	const most = 100 // operations in a transaction of etcd's: 128
	plans, err := store.Plans(ctx, "ledger", "", most)
	for _, p := range plans[min(1, len(plans)):] {
		rec, err := readPlan(p.Record)
		if err != nil {
			return err
		}
		if rec.plan.Finished() {
			tx.Delete(registry.PlanKey(p.ID))
		}
	}
	return err
}
