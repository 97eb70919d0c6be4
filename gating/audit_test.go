package gating

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/gating/notify"
)

// audit reads the whole trail, a few entries at a time.
func (s *site) audit(service string, since time.Time) []*pb.AuditEntry {
	s.t.Helper()
	var out []*pb.AuditEntry
	for after := ""; ; {
		req := &pb.ListAuditRequest{Service: service, After: after, Limit: 3}
		if !since.IsZero() {
			req.Since = timestamppb.New(since)
		}
		r, err := s.operator(tidegate.RoleViewer).ListAudit(s.t.Context(), connect.NewRequest(req))
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, r.Msg.GetEntries()...)
		if after = r.Msg.GetNext(); after == "" {
			return out
		}
	}
}

func actionsOf(entries []*pb.AuditEntry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.GetAction()+" "+e.GetOutcome())
	}
	return out
}

func TestEveryDeedIsAudited(t *testing.T) {
	t.Parallel()
	s, ids, _ := ready(t, pb.Mode_MODE_SYNC, nil)
	op := s.operator(tidegate.RoleOperator)
	began := time.Now()
	for range 2 {
		if _, err := op.Freeze(t.Context(), connect.NewRequest(&pb.FreezeRequest{Service: "ledger", Frozen: true, Reason: "works"})); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1"})
	if tidegate.ClassOf(err) != tidegate.Refused {
		t.Fatalf("failover of a frozen service: %v", err)
	}
	if _, err := op.Freeze(t.Context(), connect.NewRequest(&pb.FreezeRequest{Service: "ledger"})); err != nil {
		t.Fatal(err)
	}
	if _, err := s.open("test"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.arm(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.record(ids["a"], fence.GateArmed); err != nil {
		t.Fatal(err)
	}
	if _, err := s.open(""); err == nil {
		t.Fatal("opened without a reason")
	}
	if _, err := s.record(ids["b"], fence.GateArmed); err != nil {
		t.Fatal(err)
	}
	if plan, _, err := s.failover(&pb.ChangeRoleRequest{Target: "w1", Reason: "fire"}); err != nil {
		t.Fatalf("%v: %v", plan, err)
	}
	var got []*pb.AuditEntry
	want := []string{
		"freeze done", "freeze unchanged", "plan-start refused", "thaw done", "gate-open done", "gate-arm done", "gate-armed done",
		"call-refused refused", "gate-armed done", "plan-start done", "plan-end done",
	}
	s.eventually("the trail", func() error {
		if got = s.audit("ledger", began); !slices.Equal(actionsOf(got), want) {
			return fmt.Errorf("got %v, want %v", actionsOf(got), want)
		}
		return nil
	})
	for _, e := range got {
		who := "operator/someone"
		if e.GetAction() == ActionGateArmed {
			who = "agent/e1"
		}
		if e.GetActor() != who || e.GetAt().AsTime().Before(began.Add(-time.Second)) {
			t.Errorf("entry %v: want it of %s", e, who)
		}
	}
	if end := got[len(got)-1]; end.GetReason() != "fire" || !slices.ContainsFunc(end.GetDetail(), func(f *pb.Fact) bool { return f.GetKey() == "loss" && strings.HasPrefix(f.GetValue(), "zero") }) {
		t.Errorf("end of the plan: %v", end)
	}
	before := s.audit("", time.Time{})
	if len(before) <= len(got) {
		t.Errorf("%d entries in all, want what was configured before too", len(before))
	}
	_, err = s.operator(tidegate.RoleViewer).ListAudit(t.Context(), connect.NewRequest(&pb.ListAuditRequest{Service: "nope"}))
	if err = api.FromError("audit", "nope", err); !errors.Is(err, tidegate.ErrNotFound) {
		t.Errorf("audit of an unknown service: %v", err)
	}
}

// sink is a receiver that can be made to fail.
type sink struct {
	mu   sync.Mutex
	got  []notify.Payload
	fail bool
}

func (k *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var p notify.Payload
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil || r.Header.Get("Tidegate-Id") != p.ID || p.Version != notify.PayloadVersion {
		http.Error(w, "not a payload", http.StatusBadRequest)
		return
	}
	if k.fail {
		http.Error(w, "down for works", http.StatusServiceUnavailable)
		return
	}
	k.got = append(k.got, p)
}

func (k *sink) set(fail bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = fail
}

// ids are what was taken, each once, in the order it first came.
func (k *sink) taken() (reasons []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := map[string]bool{}
	for _, p := range k.got {
		if !seen[p.ID] {
			seen[p.ID] = true
			reasons = append(reasons, p.Reason)
		}
	}
	return reasons
}

// A receiver that is away, and a gate that is killed meanwhile: it is told
// everything all the same, in order, and the trail shows how it went.
func TestNotificationsArriveInOrderAfterAnything(t *testing.T) {
	t.Parallel()
	k := &sink{}
	srv := httptest.NewServer(k)
	t.Cleanup(srv.Close)
	with := func(c *Config) {
		c.Notify = []notify.Config{{Name: "pager", Webhook: notify.Webhook{URL: srv.URL}, Actions: []string{ActionFreeze, ActionThaw}, RetryMax: time.Second}}
	}
	s := newSite(t, "w1")
	s.startGate("gate-a", nil, with)
	if _, err := s.operator(tidegate.RoleOperator).AddService(t.Context(), connect.NewRequest(&pb.AddServiceRequest{Service: &pb.Service{Name: "ledger"}})); err != nil {
		t.Fatal(err)
	}
	n := 0
	var want []string
	freeze := func() {
		t.Helper()
		n++
		reason := fmt.Sprintf("works %d", n)
		want = append(want, reason)
		if _, err := s.operator(tidegate.RoleOperator).Freeze(t.Context(), connect.NewRequest(&pb.FreezeRequest{Service: "ledger", Frozen: n%2 == 1, Reason: reason})); err != nil {
			t.Fatal(err)
		}
	}
	arrived := func() {
		t.Helper()
		s.eventually("notifications", func() error {
			if got := k.taken(); !slices.Equal(got, want) {
				return fmt.Errorf("got %v, want %v", got, want)
			}
			return nil
		})
	}
	// The receiver is new: what comes before it has begun to listen is not for it.
	s.eventually("the receiver's beginning", func() error {
		freeze()
		if got := k.taken(); len(got) == 0 {
			return errors.New("nothing arrived")
		}
		return nil
	})
	want = want[slices.Index(want, k.taken()[0]):]
	freeze()
	arrived()
	k.set(true)
	freeze()
	freeze()
	s.eventually("an entry of the failure", func() error {
		for _, e := range s.audit("ledger", time.Time{}) {
			if e.GetAction() == ActionNotify && e.GetOutcome() == outcomeFailed {
				return nil
			}
		}
		return errors.New("none")
	})
	s.gate.stop()
	s.startGate("gate-b", nil, with)
	s.eventually("a gate that answers", func() error {
		_, err := s.operator(tidegate.RoleViewer).ListPlans(t.Context(), connect.NewRequest(&pb.ListPlansRequest{Service: "ledger"}))
		return err
	})
	freeze()
	k.set(false)
	arrived()
	done := 0
	s.eventually("the record of every delivery", func() error {
		done = 0
		for _, e := range s.audit("ledger", time.Time{}) {
			if e.GetAction() == ActionNotify && e.GetOutcome() == outcomeDone {
				done++
			}
		}
		if done < len(want) {
			return fmt.Errorf("%d of %d", done, len(want))
		}
		return nil
	})
}

func TestEveryActionIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../docs/operating/notifications.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range Actions() {
		if !strings.Contains(string(b), a) {
			t.Errorf("docs/operating/notifications.md does not say what %s is", a)
		}
	}
}
