package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// set changes every stream's gate, and waits until the record has it.
func (a *act) set(t *testing.T, args ...string) {
	t.Helper()
	for _, c := range lab.Currencies {
		full := append([]string{"gate", "set", "--reason", "the test wants it", "--single-registry"}, args...)
		a.operate(t, 0, append(full, lab.Service+"/"+c)...)
	}
}

// recorded waits until the record of every stream has a gate state.
func (a *act) recorded(t *testing.T, want pb.GateState) {
	t.Helper()
	a.until(t, "the record to say "+want.String(), func(ctx context.Context) error {
		st, err := a.Status(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, svc := range st.GetServices() {
			for _, x := range svc.GetStreams() {
				if got := x.GetView().GetEpoch().GetGate().GetState(); got != want {
					return fmt.Errorf("%s: %s", x.GetView().GetName(), got)
				}
				n++
			}
		}
		if n != len(lab.Currencies) {
			return fmt.Errorf("%d streams", n)
		}
		return nil
	})
}

// link cuts or mends both ways between the sites that replicate.
func (a *act) link(t *testing.T, do func(from, to string) error) {
	t.Helper()
	if err := errors.Join(do(lab.SitePrimary, lab.SiteDR), do(lab.SiteDR, lab.SitePrimary)); err != nil {
		t.Fatal(err)
	}
}

// A gate that is closed for longer than its grace turns new work away at once,
// and says why and for how long.
func rejecting(t *testing.T, a *act) {
	a.set(t, "--policy", "reject", "--grace", "300ms")
	a.fault()
	a.link(t, a.Cut)
	var answer string
	a.until(t, "new work to be turned away", func(ctx context.Context) error {
		begun := time.Now()
		code, body, retry, err := transfer(ctx, a.HTTP("p1"))
		switch {
		case err != nil:
			return err
		case code != http.StatusServiceUnavailable:
			return fmt.Errorf("status %d: %s", code, body)
		case retry == "":
			t.Errorf("turned away without Retry-After: %s", body)
		}
		answer = fmt.Sprintf("503 after %s, Retry-After %s", since(begun), retry)
		return nil
	})
	a.link(t, a.Mend)
	a.flows(t, "transfers after the link is back")
	a.note = answer
}

// transfer asks a node for one transfer that nobody else asks for.
func transfer(ctx context.Context, url string) (code int, body, retry string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	text := fmt.Sprintf(`{"client":"%032x","request":1,"currency":"eur","to":"turned-away"}`, time.Now().UnixNano())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/accounts", strings.NewReader(text))
	if err != nil {
		return 0, "", "", err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", "", err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	return res.StatusCode, strings.TrimSpace(b.String()), res.Header.Get("Retry-After"), err
}

// A gate that may degrade lets the primary go on after its grace, says so on the
// record first, and arms itself when the other site has kept up again.
func degrading(t *testing.T, a *act) {
	a.set(t, "--policy", "degrade", "--grace", "300ms", "--rearm", "1s")
	a.fault()
	a.link(t, a.Cut)
	a.recorded(t, pb.GateState_GATE_STATE_DEGRADED)
	a.flows(t, "transfers without protection")
	claims(t, a.stage, pb.GateState_GATE_STATE_DEGRADED, pb.LossKind_LOSS_KIND_UNKNOWN)
	a.link(t, a.Mend)
	a.recorded(t, pb.GateState_GATE_STATE_ARMED)
	a.flows(t, "transfers under an armed gate")
	a.note = "degraded on the record, armed again by itself"
}

// The brake: an operator lets the primary go on, and takes that back.
func braked(t *testing.T, a *act) {
	a.set(t, "--rearm", "1s")
	a.fault()
	a.link(t, a.Cut)
	a.still(t, "clients to get nothing", time.Second)
	a.operate(t, 0, "gate", "open", "--reason", "the link is down for the night", lab.Service)
	a.flows(t, "transfers with the brake on")
	says(t, a.operate(t, 4, append([]string{"failover", "--reason", "test"}, append(lab.Overrides(), lab.Service)...)...), "arm-switch")
	a.link(t, a.Mend)
	a.operate(t, 0, "gate", "arm", "--reason", "the link is back", lab.Service)
	a.recorded(t, pb.GateState_GATE_STATE_ARMED)
	a.flows(t, "transfers under an armed gate")
	a.note = "gate open, then gate arm"
}

// leaseTTL is the lease of the open scenario.
const leaseTTL = 3 * time.Second

// An open gate stops nobody: a writer that is cut off goes on, for clients at its
// own site, until its lease is over. The failover waits for that, and nobody has
// to vouch for anything.
func leased(t *testing.T, a *act) {
	a.set(t, "--lease", leaseTTL.String())
	local, err := a.StartLocal("p1", "--accounts", "20", "--workers", "4", "--try-timeout", "1s", "--seed", "7")
	if err != nil {
		t.Fatal(err)
	}
	a.until(t, "the site's own clients to be served", func(context.Context) error {
		if err := local.Tail.Read(); err != nil {
			return err
		}
		if local.Tail.Newest().IsZero() {
			return errors.New("they are not")
		}
		return nil
	})
	_, old := a.writer(t, a.Primaries(), 0)
	a.until(t, "a failover to be possible", func(ctx context.Context) error {
		args := append([]string{"failover", "--dry-run", "--reason", "test", "--accept-loss", "unknown"}, lab.Overrides()...)
		_, err := a.Tidegate(ctx, append(args, lab.Service)...)
		return err
	})
	a.fault()
	a.cutOff(t)
	a.within(t, func(ctx context.Context) error {
		if _, err := a.Noticed(ctx); err != nil {
			return err
		}
		args := append([]string{"failover", "--reason", "the test cut the primary site off", "--accept-loss", "unknown", "--yes", "-o", "json"}, lab.Overrides()...)
		b, err := a.Tidegate(ctx, append(args, lab.Service)...)
		if err != nil {
			return err
		}
		a.plan, err = lastPlan(b)
		return err
	})
	a.flowsAbove(t, "acknowledgements of the DR site", old)
	a.flows(t, "more of them")
	local.Stop(patience)
	if err := errors.Join(a.acks.Read(), local.Tail.Read()); err != nil {
		t.Fatal(err)
	}
	// One output at a time: the old writer's last word came before the new one's first.
	last := local.Tail.Newest()
	for _, c := range ledger.Currencies() {
		first, ok := a.acks.First(c, old)
		if !ok || first.AckedMS < last.UnixMilli() {
			t.Errorf("%s: the old writer answered at %s, the new one at %s", c, last, time.UnixMilli(first.AckedMS))
		}
	}
	a.within(t, func(ctx context.Context) error {
		r, err := local.Check(ctx, a.Route())
		if err != nil {
			return err
		}
		if r.Lost == 0 || r.Recovered == 0 {
			t.Errorf("the old site's own clients lost %d and kept %d: want some of each", r.Lost, r.Recovered)
		}
		a.note = fmt.Sprintf("lease %s; clients inside the cut-off site served for %s more, %d of their %d lost; failover: %s",
			leaseTTL, last.Sub(a.begun).Round(time.Millisecond), r.Lost, r.Acknowledged, claimed(a.plan))
		return nil
	})
}

// cutOff takes the primary site's links to everybody away.
func (a *act) cutOff(t *testing.T) {
	t.Helper()
	for _, other := range []string{lab.SiteDR, lab.SiteWitness} {
		if err := errors.Join(a.Cut(lab.SitePrimary, other), a.Cut(other, lab.SitePrimary)); err != nil {
			t.Fatal(err)
		}
	}
}

// The gate is put back from a copy of its data that knows nothing of the epochs
// issued since. Nothing is claimed until a writer that lives has armed its gate.
func registryPutBack(t *testing.T, a *act) {
	gate, agent := a.Proc("gate"), a.Proc("agent-p1")
	gate.Kill()
	backup := filepath.Join(a.dir, "backup")
	if err := os.CopyFS(backup, os.DirFS(filepath.Join(a.GateDir(0), "registry", "etcd"))); err != nil {
		t.Fatal(err)
	}
	if err := gate.Start(); err != nil {
		t.Fatal(err)
	}
	_, epoch := a.writer(t, a.Primaries(), 0)
	a.fault()
	agent.Kill()
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	a.flowsAbove(t, "transfers of an epoch that the backup does not know", epoch)
	gate.Kill()
	if err := errors.Join(os.RemoveAll(filepath.Join(a.GateDir(0), "registry", "etcd")), os.Rename(backup, filepath.Join(a.GateDir(0), "registry", "etcd"))); err != nil {
		t.Fatal(err)
	}
	if err := gate.Start(); err != nil {
		t.Fatal(err)
	}
	a.flows(t, "transfers with an old registry")
	a.until(t, "a failover to be possible with zero loss again", func(ctx context.Context) error {
		st, err := a.Status(ctx)
		if err != nil {
			return err
		}
		if st.GetRegistrySuspect() {
			return errors.New("the registry is suspect")
		}
		for _, svc := range st.GetServices() {
			if l := svc.GetLossIfNow(); l.GetKind() != pb.LossKind_LOSS_KIND_ZERO {
				return errors.New(l.GetWhy())
			}
		}
		return a.MayFailOver(ctx)
	})
	_, now := a.writer(t, a.Primaries(), epoch+1)
	a.note = fmt.Sprintf("backup of epoch %d, written on in epoch %d", epoch, now)
}

// The primary site is lost in the middle of the night, and nobody is called:
// three gates at three sites agree.
func failsOverByItself(t *testing.T, a *act) {
	a.automatic(t)
	a.lostWithoutACall(t)
}

// automatic has the detector act by itself.
func (a *act) automatic(t *testing.T) {
	t.Helper()
	a.operate(t, 0, "override", "set", "--rule", "drill-fresh", "--rule", "capacity", "--expires", "1h", "--reason", "a lab", lab.Service)
	a.until(t, "the detector to be allowed to act", func(ctx context.Context) error {
		_, err := a.Tidegate(ctx, "detector", "set", "--mode", "auto", "--down-after", "5s", "--agree", "3", "--anti-flap", "5s",
			"--single-registry", "--reason", "test", lab.Service)
		return err
	})
}

// failsOverWithoutItsLeader is the same where the gate that leads is at the primary
// site: another one has to take its place, and has heard little of the service.
func failsOverWithoutItsLeader(t *testing.T, a *act) {
	a.automatic(t)
	a.until(t, "the gate of the primary site to lead", func(ctx context.Context) error {
		st, err := a.Status(ctx)
		switch leader := st.GetLeader(); {
		case err != nil || leader == "gate-3":
			return err
		case leader != "":
			p := a.Proc(processOf(leader))
			p.Stop(patience)
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			return fmt.Errorf("%s leads", leader)
		}
		return errors.New("nobody leads")
	})
	a.lostWithoutACall(t)
}

func (a *act) lostWithoutACall(t *testing.T) {
	t.Helper()
	a.possible(t)
	_, old := a.writer(t, a.Primaries(), 0)
	a.fault()
	a.KillSite(lab.SitePrimary)
	a.flowsAbove(t, "acknowledgements of the DR site", old)
	plans, err := a.Plans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range plans {
		if p.GetKind() == pb.PlanKind_PLAN_KIND_FAILOVER {
			a.plan = p
			break
		}
	}
	a.note = "detector in auto, three gates at three sites: " + claimed(a.plan)
}
