package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
)

// tableBounds are those of the bounded scenarios: each of them small enough to
// be reached within the time that a fault lasts.
var tableBounds = tidegate.Bounds{Records: 300, Bytes: 1 << 20, Window: 2 * time.Second}

// scenario is one row of the table: a fault under load, on a lab of its own.
type scenario struct {
	name  string
	plant lab.Plant
	// run makes the fault, and returns once clients are served again.
	run func(*testing.T, *act)
	// lossy scenarios end with a failover of a writer that was cut off: what is
	// lost must be within the bounds, and within what the plan claimed.
	lossy bool
	// free scenarios let a gate go on unprotected, with exposure beyond any bound.
	free   bool
	etcd   bool // the gate's registry is an etcd that the scenario can stop
	drills bool // it has drills
}

// act is a scenario under way.
type act struct {
	*stage
	begun time.Time // of the fault
	plan  *pb.Plan  // of the change of writer, if there was one
	note  string    // what else the row should say
	etcd  *lab.Registry
}

// fault notes when the fault begins.
func (a *act) fault() { a.begun = time.Now() }

// TestTable plays every scenario and prints what it did to the clients: the
// figures of one run on this machine, not promises. What must hold in each row
// is asserted: nothing acknowledged is lost in sync mode, and in bounded mode
// neither exposure nor loss pass the bounds.
func TestTable(t *testing.T) {
	rows := []string{"scenario\tmode\tacknowledged\tlost\texposure max\tpause\tRTA\tnote"}
	for _, sc := range scenarios() {
		ok := t.Run(strings.ReplaceAll(sc.name, " ", "-"), func(t *testing.T) { rows = append(rows, sc.play(t)) })
		if !ok && len(rows) == 1 {
			break // nothing works at all
		}
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, r)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("pause: longest time without any acknowledgement, from the fault on\n%s", b.String())
}

func scenarios() []scenario {
	sync := lab.Plant{Primaries: 1}
	bounded := lab.Plant{Primaries: 1, Mode: tidegate.ModeBounded, Bounds: tableBounds}
	return []scenario{
		{name: "agent killed", plant: sync, run: agentKilled},
		{name: "standby frozen", plant: sync, run: standbyFrozen},
		{name: "primary suspended", plant: sync, run: primarySuspended},
		{name: "primary lost", plant: sync, run: primaryLost},
		{name: "link cut", plant: networked(bounded), run: linkDrilled},
		{name: "link one way, data lost", plant: networked(bounded), run: cutFor([2]string{lab.SitePrimary, lab.SiteDR})},
		{name: "link one way, acks lost", plant: networked(bounded), run: cutFor([2]string{lab.SiteDR, lab.SitePrimary})},
		{name: "primary cut off, then back", plant: networked(bounded), run: zombie, lossy: true},
		{name: "link cut, by the archive", plant: archived(networked(sync)), run: byTheArchive},
		{name: "link cut, reject", plant: networked(bounded), run: rejecting},
		{name: "link cut, degrade", plant: networked(bounded), run: degrading, free: true},
		{name: "link cut, brake", plant: networked(sync), run: braked, free: true},
		{name: "open, cut off, lease", plant: networked(lab.Plant{Primaries: 1, Mode: tidegate.ModeOpen}), run: leased, lossy: true, free: true},
		{name: "primary lost, nobody called", plant: lab.Plant{Primaries: 1, Gates: 3, Spread: true}, run: failsOverByItself, etcd: true},
		{name: "primary lost and the leading gate with it", plant: lab.Plant{Primaries: 1, Gates: 3, Spread: true}, run: failsOverWithoutItsLeader, etcd: true},
		{name: "registry put back", plant: sync, run: registryPutBack},
		{name: "etcd gone for a minute", plant: lab.Plant{Primaries: 1, Gates: 2, Tune: soonLed}, run: etcdGone, etcd: true, drills: true},
	}
}

func networked(p lab.Plant) lab.Plant {
	p.Networks = true
	return p
}

// play runs the scenario and returns its row.
func (sc scenario) play(t *testing.T) string {
	bounds := tidegate.Bounds{}
	switch {
	case sc.free:
		bounds = tidegate.Bounds{Records: tidegate.Unbounded, Bytes: tidegate.Unbounded, Window: tidegate.Unbounded}
	case sc.plant.Mode == tidegate.ModeBounded:
		bounds = sc.plant.Bounds
	}
	a := &act{}
	if sc.etcd {
		a.etcd = newRegistry(t)
		sc.plant.Etcd = []string{a.etcd.Endpoint}
	}
	place := layOut
	if sc.drills {
		place = drillLab
	}
	s := place(t, sc.plant)
	s.up(t)
	witness, stop := s.watch(t, bounds)
	a.stage, a.begun = s, time.Now()
	sc.run(t, a)
	stop()
	most, samples, passed := witness.Seen()
	if samples == 0 {
		t.Error("exposure was never known")
	}
	for _, p := range passed {
		t.Errorf("a bound was passed: %s", p)
	}
	if _, err := s.StopLoad(patience); err != nil {
		t.Fatal(err)
	}
	if err := s.acks.Read(); err != nil {
		t.Fatal(err)
	}
	var row string
	s.within(t, func(ctx context.Context) error {
		r, err := s.Check(ctx, s.Route())
		if err != nil {
			return err
		}
		if !r.Sound || r.Acknowledged == 0 || r.Lost > 0 && !sc.lossy || sc.lossy && !sc.free && r.Lost > uint64(len(lab.Currencies))*uint64(bounds.Records) {
			t.Errorf("acknowledged %d, recovered %d, lost %d, books sound: %t", r.Acknowledged, r.Recovered, r.Lost, r.Sound)
		}
		mode := sc.plant.Mode
		if mode == "" {
			mode = tidegate.ModeSync
		}
		rta := "-"
		if p := a.plan.GetPhases(); p.GetRta() != nil {
			rta = p.GetRta().AsDuration().Round(time.Millisecond).String()
		}
		row = fmt.Sprintf("%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s", sc.name, mode, r.Acknowledged, r.Lost, most, s.acks.Pause(a.begun), rta, a.note)
		return nil
	})
	return row
}

// watch samples the exposure that every agent tells of, until stop is called.
func (s *stage) watch(t *testing.T, b tidegate.Bounds) (*lab.Witness, func()) {
	t.Helper()
	w := lab.NewWitness(b)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, m := range append(s.Primaries(), s.Standbys()...) {
		all.Go(func() { w.Watch(ctx, m, s.AgentURL(m)) })
	}
	stop := func() { cancel(); all.Wait() }
	t.Cleanup(stop)
	return w, stop
}

func agentKilled(t *testing.T, a *act) {
	p := a.Proc("agent-p1")
	_, epoch := a.writer(t, a.Primaries(), 0)
	a.fault()
	p.Kill()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	a.flowsAbove(t, "transfers of the agent's next run", epoch)
}

// With two of three nodes one that does not answer costs nothing, the relay or not.
func standbyFrozen(t *testing.T, a *act) {
	a.fault()
	for _, node := range a.Standbys() {
		p := a.Proc("standby-" + node)
		if err := p.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		a.flows(t, "transfers without "+node)
		if err := p.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		a.counts(t, node)
	}
	a.note = "each node in turn, the relay among them"
}

// The whole site stops in its tracks, as a virtual machine does that is moved,
// and goes on. Nobody has taken over.
func primarySuspended(t *testing.T, a *act) {
	a.fault()
	for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		for _, p := range a.Procs(lab.SitePrimary) {
			if err := p.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
		if sig == syscall.SIGSTOP {
			a.still(t, "clients to get nothing", 3*time.Second)
		}
	}
	a.flows(t, "transfers after the pause")
}

func primaryLost(t *testing.T, a *act) {
	a.fault()
	a.plan = a.failover(t)
	a.note = "kill -9 of the site, failover: " + claimed(a.plan)
}

// cutFor cuts ways between sites until clients get nothing any more, and mends them.
func cutFor(ways ...[2]string) func(*testing.T, *act) {
	return func(t *testing.T, a *act) {
		a.fault()
		for _, w := range ways {
			if err := a.Cut(w[0], w[1]); err != nil {
				t.Fatal(err)
			}
		}
		a.still(t, "clients to get nothing", 3*time.Second)
		a.note = fmt.Sprintf("mended after %s", since(a.begun))
		for _, w := range ways {
			if err := a.Mend(w[0], w[1]); err != nil {
				t.Fatal(err)
			}
		}
		a.flows(t, "transfers after the link is back")
	}
}

// The primary site is cut off from everybody and goes on for as long as its
// bounds let it. It comes back after the failover, and must not answer any more.
func zombie(t *testing.T, a *act) {
	_, old := a.writer(t, a.Primaries(), 0)
	a.possible(t)
	a.fault()
	a.cutOff(t)
	a.within(t, func(ctx context.Context) error {
		if _, err := a.Noticed(ctx); err != nil {
			return err
		}
		text, p, err := a.Failover(ctx, "the test cut the primary site off")
		if err != nil {
			t.Log(text)
		}
		a.plan = p
		return err
	})
	a.flowsAbove(t, "acknowledgements of the DR site", old)
	for _, other := range []string{lab.SiteDR, lab.SiteWitness} {
		if err := errors.Join(a.Mend(lab.SitePrimary, other), a.Mend(other, lab.SitePrimary)); err != nil {
			t.Fatal(err)
		}
	}
	a.until(t, "the old writer to know that it is over", func(ctx context.Context) error {
		st, err := a.agentStatus(ctx, "p1")
		if err != nil {
			return err
		}
		if _, writes := writing(st); writes {
			return errors.New("it writes")
		}
		return nil
	})
	a.note = "failover: " + claimed(a.plan)
}

// etcdOutage is how long the registry is gone.
const etcdOutage = time.Minute

// The registry goes away for a minute: everything flows on but changes of role,
// which are refused, and are possible again when it is back. A drill that became due
// meanwhile is begun then, and an operator calls it off. The next one outlives its worker,
// and the gate that leads.
func etcdGone(t *testing.T, a *act) {
	a.schedules(t)
	_, epoch := a.writer(t, a.Primaries(), 0)
	a.fault()
	a.etcd.Stop()
	for rounds := 0; time.Since(a.begun) < etcdOutage; rounds++ {
		a.flows(t, "transfers without a registry")
		if rounds == 1 {
			says(t, a.operate(t, 8, "failover", "--reason", "test", lab.Service), "hint: ")
		}
	}
	if _, now := a.writer(t, a.Primaries(), 0); now != epoch {
		t.Errorf("epoch %d became %d without a registry", epoch, now)
	}
	if err := a.etcd.Start(); err != nil {
		t.Fatal(err)
	}
	a.possible(t)
	a.flows(t, "transfers with the registry back")
	calledOff(t, a.stage)
	lost := workerKilled(t, a)
	leaderKilled(t, a, lost)
	a.note = "role changes refused meanwhile; then drills: one called off, one whose worker is killed, its next try, whose gate is"
}

// possible waits until the gate has heard of enough to judge a failover.
func (s *stage) possible(t *testing.T) {
	t.Helper()
	s.until(t, "a failover to be possible", func(ctx context.Context) error {
		return s.MayFailOver(ctx)
	})
}

// claimed says what a plan claims to have lost at most.
func claimed(p *pb.Plan) string {
	worst := pb.LossKind_LOSS_KIND_ZERO
	for _, x := range p.GetStreams() {
		worst = max(worst, x.GetLoss().GetKind())
	}
	return strings.ToLower(strings.TrimPrefix(worst.String(), "LOSS_KIND_")) + " claimed"
}
