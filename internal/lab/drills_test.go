//go:build drills

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/live"
	"github.com/tidegate/tidegate/internal/lab"
)

// slowLink is the rate of a slow link: a fraction of what the clients' transfers take, who
// must be served all the same.
const slowLink = "64kbit"

// played is a scenario, and the fault that it is made by.
type played struct {
	name     string // of the subtest
	scenario live.Scenario
	fault    tree
	says     string // the line by which the gates name the fault; empty: they need not
}

// results are a table of what drills have shown.
type results struct{ rows []string }

func (r *results) add(name string, rep evidence.Report) {
	line := ""
	for _, c := range rep.Checks {
		if strings.HasPrefix(c.Name, "gate-says") && c.Got != nil {
			line = *c.Got
		}
	}
	var phases []string
	for _, p := range rep.Phases {
		if p.Took != nil {
			phases = append(phases, p.Name+" "+p.Took.Round(time.Millisecond).String())
		}
	}
	rta := "unknown"
	if a := rep.Recovered.Actual; a != nil {
		rta = a.Round(time.Millisecond).String()
	}
	r.rows = append(r.rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", name, rep.Verdict.Outcome, rta, strings.Join(phases, ", "), line))
}

func (r *results) print(t *testing.T) {
	t.Helper()
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range append([]string{"scenario\tverdict\tRTA\tphases\tthe gates said"}, r.rows...) {
		fmt.Fprintln(w, row)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())
}

// TestDrills drills what is ridden out, one scenario after the other, on one lab under load
// in sync mode: real networks, a registry that can go away, and one node on a small disk.
func TestDrills(t *testing.T) {
	etcd := newRegistry(t)
	s := liveLab(t, lab.Plant{Primaries: 1, Networks: true, Etcd: []string{etcd.Endpoint}})
	mountSmall(t, s)
	s.up(t)
	l := newLevers(t)
	flip, aside := s.damage(t, "d2")
	all := []played{
		{"registry-lost", live.RegistryLost, l.fault("registry", func() error { etcd.Stop(); return nil }, etcd.Start), `^(registry|finding: registry): `},
		{"link-one-way", live.LinkOneWay, l.fault("data", s.cuts(lab.SitePrimary, lab.SiteDR), s.mends(lab.SitePrimary, lab.SiteDR)), `(eur|usd): the gate is closed`},
		{"link-one-way-back", live.LinkOneWay, l.fault("acks", s.cuts(lab.SiteDR, lab.SitePrimary), s.mends(lab.SiteDR, lab.SitePrimary)), `(eur|usd): the gate is closed`},
		{"disk-full", live.DiskFull, l.fault("ballast", func() error { return fill(s.ballast()) }, func() error { return os.Remove(s.ballast()) }), `member d3: .*full`},
		{"corrupt-segment", live.CorruptSegment, l.fault("segment", flip, aside), `member d2: open stream .*checksum mismatch`},
		{"wiped-disk", live.WipedDisk, l.fault("disk", s.wipes(t, "d2"), func() error { return nil }), `standby d2: `},
		{"link-slow", live.LinkSlow, l.fault("slow", func() error { return s.Throttle(lab.SiteDR, slowLink) }, func() error { return s.Unthrottle(lab.SiteDR) }), ""},
	}
	faults := map[live.Scenario]tree{}
	shown := &results{}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			faults[p.scenario] = p.fault
			shown.add(p.name, p.play(t, s, faults))
		})
	}
	shown.print(t)
	s.nothingLost(t)
}

// play drills one, which must pass, and by what the gates say of this very fault.
func (p played) play(t *testing.T, s *stage, faults map[live.Scenario]tree) evidence.Report {
	t.Helper()
	file := liveFile(t, s, tree{"faults": faults, "steady": "1s", "hold": "2s"})
	s.drillable(t, file, "L3", p.scenario)
	rep := s.liveDrill(t, 0, file, "L3", p.scenario)
	for _, c := range rep.Checks {
		if c.Name == "gate-says" && (c.Got == nil || !regexp.MustCompile(p.says).MatchString(*c.Got)) {
			t.Errorf("want the gates to say %s", p.says)
		}
	}
	return rep
}

// drillable waits until a drill may begin: until then a lab is too young.
func (s *stage) drillable(t *testing.T, file, level string, scenario live.Scenario) {
	t.Helper()
	s.until(t, "a drill to be possible", func(ctx context.Context) error {
		_, err := s.Command(ctx, s.Bin("tidegate"), "drill", "plan", "--config", file, "--level", level, "--scenario", string(scenario))
		return err
	})
}

// fault is one of a drill's file, by levers of two names.
func (l *levers) fault(name string, inject, heal func() error) tree {
	return tree{"inject": []tree{l.command(name, inject)}, "heal": []tree{l.command("heal "+name, heal)}}
}

func (s *stage) cuts(from, to string) func() error { return func() error { return s.Cut(from, to) } }

func (s *stage) mends(from, to string) func() error { return func() error { return s.Mend(from, to) } }

// ballast is the file that fills the small disk.
func (s *stage) ballast() string { return filepath.Join(s.StandbyDir("d3"), "ballast") }

// wipes has a node lose its disk: an operator formats another one, and starts it.
func (s *stage) wipes(t *testing.T, node string) func() error {
	t.Helper()
	return func() error {
		p := s.Proc("standby-" + node)
		p.Kill()
		if err := os.RemoveAll(s.StandbyDir(node)); err != nil {
			return err
		}
		if _, err := s.Command(t.Context(), s.Bin("tidegate"), "standby", "format", "--config", s.File(node, "standby.yaml")); err != nil {
			return err
		}
		return p.Start()
	}
}

// damage flips a bit in a log of a node's that is down, which finds out at its start. What
// heals it is what the node says then: set the log aside, and copy it again.
func (s *stage) damage(t *testing.T, node string) (inject, heal func() error) {
	t.Helper()
	p, stream := s.Proc("standby-"+node), ""
	inject = func() error {
		p.Kill()
		segments, err := filepath.Glob(filepath.Join(s.StandbyDir(node), "streams", "*", "log", "*.seg"))
		if err != nil || len(segments) == 0 {
			return errors.Join(err, errors.New("no segments"))
		}
		stream = filepath.Base(filepath.Dir(filepath.Dir(segments[0])))
		text, err := os.ReadFile(segments[0])
		if err != nil {
			return err
		}
		text[len(text)/2] ^= 1
		return errors.Join(os.WriteFile(segments[0], text, 0o600), p.Start())
	}
	heal = func() error {
		p.Kill()
		if _, err := s.Command(t.Context(), s.Bin("tidegate"), "standby", "set-aside", "--config", s.File(node, "standby.yaml"), stream); err != nil {
			return err
		}
		return p.Start()
	}
	return inject, heal
}

// TestDrillsThermal has the nodes of the primary site become slow and die, one by one: the
// service hands over among them for as long as it can, and fails over in the end.
func TestDrillsThermal(t *testing.T) {
	s := liveLab(t, lab.Plant{})
	s.up(t)
	l := newLevers(t)
	var inject []tree
	for _, m := range s.Primaries() {
		procs := []*lab.Proc{s.Proc("agent-" + m), s.Proc("ledger-" + m)}
		stop := func() {}
		slow := l.command("slow "+m, func() error { stop = slows(procs); return nil })
		slow["then"] = "1s"
		dead := l.command("kill "+m, func() error {
			stop()
			for _, p := range procs {
				p.Kill()
			}
			return nil
		})
		dead["then"] = "500ms"
		inject = append(inject, slow, dead)
	}
	delete(inject[len(inject)-1], "then")
	faults := map[live.Scenario]tree{live.Thermal: {"inject": inject, "heal": []tree{l.command("start the site", s.restart)}}}
	shown := &results{}
	shown.add("thermal", played{scenario: live.Thermal, says: `^probe fails|writer \S+ has`}.play(t, s, faults))
	shown.print(t)
	s.nothingLost(t)
}

// slows lets processes run for a quarter of the time, as a hot processor does that is
// throttled, until stop is called; a process that is gone is left alone.
func slows(procs []*lab.Proc) (stop func()) {
	over := make(chan struct{})
	var working sync.WaitGroup
	working.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			sig := syscall.SIGSTOP
			if i%4 == 0 {
				sig = syscall.SIGCONT
			}
			for _, p := range procs {
				_ = p.Signal(sig) // it may be gone
			}
			select {
			case <-tick.C:
			case <-over:
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(over); working.Wait() })
}

// till is a second service of a lab, on the same machines and with the same agents.
type till struct {
	s     *stage
	route string            // address
	http  map[string]string // by machine
	raft  map[string]string // by machine
}

const tillService = "till"

// newTill gives it addresses.
func newTill(t *testing.T) *till {
	t.Helper()
	k := &till{http: map[string]string{}, raft: map[string]string{}, route: free(t)}
	for _, m := range []string{"p1", "d1", "d2", "d3"} {
		k.http[m], k.raft[m] = free(t), free(t)
	}
	return k
}

func free(t *testing.T) string {
	t.Helper()
	addr, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// tune adds the service to the files of agents and of the route.
func (k *till) tune(name string, file map[string]any) {
	if machine, is := strings.CutSuffix(name, "/agent.yaml"); is {
		all := file["streams"].([]map[string]any)
		for _, c := range lab.Currencies {
			all = append(all, tree{
				"service": tillService, "stream": c, "source": "journal", "journal_dir": k.s.File(machine, tillService, "journal", c), "endpoint": k.http[machine],
			})
		}
		file["streams"] = all
	}
	if name == "route.yaml" {
		route := file["route"].(map[string]any)
		route["services"] = append(route["services"].([]map[string]any), tree{"name": tillService, "listen": []string{k.route}})
	}
}

// up registers the service and starts it.
func (k *till) up(t *testing.T) {
	t.Helper()
	s := k.s
	s.operate(t, 0, "services", "add", "--rpo", "5s", "--rto", "30s", "--route", "route-1", tillService)
	for _, c := range lab.Currencies {
		args := []string{"streams", "add", "--store", "journal", "--mode", string(tidegate.ModeSync), "--w", "2"}
		for _, m := range s.Standbys() {
			args = append(args, "--member", m)
		}
		s.operate(t, 0, append(args, tillService+"/"+c)...)
	}
	for i, m := range append(s.Primaries(), s.Standbys()...) {
		site, args := lab.SiteDR, []string{s.Bin("ledger"), "follow", "--raft", k.raft[m]}
		if i < len(s.Primaries()) {
			site, args = lab.SitePrimary, []string{s.Bin("ledger"), "node", "--peer", fmt.Sprintf("%s=%s,%s", m, k.raft[m], k.http[m])}
		}
		args = append(args, "--name", m, "--data", s.File(m, tillService), "--http", k.http[m], "--service", tillService, "--run", s.RunDir(m))
		if err := s.StartProc(tillService+"-"+m, site, args...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDrillsWholeSite loses a site where two services are active: both fail over at the
// same time, and both routes follow.
func TestDrillsWholeSite(t *testing.T) {
	k := newTill(t)
	s := liveLab(t, lab.Plant{Primaries: 1, Tune: k.tune})
	k.s = s
	s.up(t)
	k.up(t)
	l := newLevers(t)
	canaries := []tree{canary(s.Route(), "eur"), canary(s.Route(), "usd")}
	for _, c := range lab.Currencies {
		one := canary("http://"+k.route, c)
		one["name"], one["service"] = tillService+"-"+c, tillService
		canaries = append(canaries, one)
	}
	file := liveFile(t, s, tree{"canaries": canaries, "faults": map[live.Scenario]tree{
		live.PrimarySiteLost: l.fault("site", func() error { s.KillSite(lab.SitePrimary); return nil }, s.restart),
	}})
	s.drillable(t, file, "L4", live.PrimarySiteLost)
	rep := s.liveDrill(t, 0, file, "L4", live.PrimarySiteLost)
	routes := 0
	for _, c := range rep.Checks {
		if strings.HasPrefix(c.Name, "routes of ") && c.Outcome == evidence.CheckPassed {
			routes++
		}
	}
	if routes != 2 {
		t.Errorf("the routes of %d services follow, want both", routes)
	}
	shown := &results{}
	shown.add("primary-site-lost, L4", rep)
	shown.print(t)
	s.nothingLost(t)
}
