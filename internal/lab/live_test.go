package lab_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/live"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/lab"
)

// levers do what an operator's commands do to real machines: a drill's file names
// commands, and each of them pulls one lever of the lab.
type levers struct {
	addr string

	mu  sync.Mutex
	all map[string]func() error
}

// newLevers listens until the test ends.
func newLevers(t *testing.T) *levers {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &levers{addr: ln.Addr().String(), all: map[string]func() error{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			l.serve(conn)
		}
	})
	t.Cleanup(func() {
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		serving.Wait()
	})
	return l
}

func (l *levers) serve(conn net.Conn) {
	defer conn.Close()
	name, _ := bufio.NewReader(conn).ReadString('\n')
	l.mu.Lock()
	pull := l.all[strings.TrimSpace(name)]
	l.mu.Unlock()
	answer := "no such lever"
	if pull != nil {
		answer = "ok"
		if err := pull(); err != nil {
			answer = strings.Join(strings.Fields(err.Error()), " ")
		}
	}
	_, _ = fmt.Fprintln(conn, answer) // a command that is gone has failed
}

// command is the command line that does something, as a drill's file has it.
func (l *levers) command(name string, do func() error) tree {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[name] = do
	host, port, _ := strings.Cut(l.addr, ":")
	return tree{"run": []string{"/bin/bash", "-c", fmt.Sprintf(`exec 3<>/dev/tcp/%s/%s && echo '%s' >&3 && read -r answer <&3 && { test "$answer" = ok || { echo "$answer"; false; }; }`, host, port, name)}}
}

type tree = map[string]any

// canary is one that is written through a ledger's route.
func canary(route, currency string) tree {
	return tree{
		"name": "open-" + currency,
		"write": tree{"timeout": "1s", "http": tree{
			"method": "POST", "url": route + "/accounts", "body": `{"client":"{canary}","currency":"` + currency + `","request":1,"to":"drill-{canary}"}`,
			"contains": `"code":"done"`,
		}},
		"read": tree{"http": tree{"url": route + "/accounts/" + currency + "/drill-{canary}", "contains": `"balance":0`}},
	}
}

// liveFile writes the file of live drills of the ledger, which act as the operator ada.
func liveFile(t *testing.T, s *stage, more tree) string {
	t.Helper()
	file := tree{
		"service": lab.Service,
		"operator": tree{
			"gates": []string{s.Gate()}, "overrides": tree{"drill-fresh": "a lab has no drills", "capacity": "a lab is young"},
			"tls": tree{"ca": s.File("pki", "ca.crt"), "cert": s.File("pki", "north-operator-ada.crt"), "key": s.File("pki", "north-operator-ada.key")},
		},
		"target": "d1", "canaries": []tree{canary(s.Route(), "eur"), canary(s.Route(), "usd")}, "every": "50ms",
		"checks": []tree{{"name": "serves", "http": tree{"url": s.Route() + "/status", "contains": `"serving":true`}}},
		"steady": "300ms", "hold": "500ms", "notice": "30s", "change": "60s", "whole": "60s", "refused": "60s",
		"objectives": tree{"rto": "1m"},
		"evidence":   tree{"directory": s.File("live", "evidence"), "key": s.File("drill.key")},
	}
	for k, v := range more {
		file[k] = v
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	path := s.File("live.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// liveDrill runs one and returns its report.
func (s *stage) liveDrill(t *testing.T, code cli.Code, file, level string, scenario live.Scenario) (rep evidence.Report) {
	t.Helper()
	begun := time.Now()
	args := []string{"drill", "run", "--config", file, "--level", level, "--yes", "-o", "json"}
	if scenario != "" {
		args = append(args, "--scenario", string(scenario))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := s.Command(ctx, s.Bin("tidegate"), args...)
	text := string(out)
	if exit, failed := errors.AsType[*lab.ExitError](err); failed {
		if exit.Code != int(code) {
			t.Fatalf("want exit code %d: %v", code, err)
		}
	} else if err != nil || code != 0 {
		t.Fatalf("want exit code %d, got %v: %s", code, err, text)
	}
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &rep); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	t.Logf("%s %s: %s after %s; %s", level, scenario, rep.Verdict.Outcome, since(begun), phasesText(rep))
	return rep
}

func phasesText(r evidence.Report) string {
	took := func(d *time.Duration) string {
		if d == nil {
			return "unknown"
		}
		return d.Round(time.Millisecond).String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "RTA %s, RPA %s", took(r.Recovered.Actual), took(r.Lost.Actual))
	for _, p := range r.Phases {
		if !p.Absent {
			fmt.Fprintf(&b, ", %s %s", p.Name, took(p.Took))
		}
	}
	for _, c := range r.Checks {
		got := ""
		if c.Got != nil {
			got = " (" + *c.Got + ")"
		}
		fmt.Fprintf(&b, "\n    %s %s%s %s", c.Name, c.Outcome, got, c.Why)
	}
	return b.String()
}

func (s *stage) signals(name string, sig syscall.Signal) func() error {
	return func() error { return s.Proc(name).Signal(sig) }
}

// drillLab is a lab whose gates trust the drills' key, and hear soon that a worker is silent.
func drillLab(t *testing.T, p lab.Plant) *stage {
	t.Helper()
	var s *stage
	tune := p.Tune
	p.Tune = func(name string, file map[string]any) {
		if strings.HasPrefix(name, "gate") {
			file["gate"].(map[string]any)["drills"] = map[string]any{"keys": []string{s.File("drill.pub")}, "silence": "3s"}
		}
		if tune != nil {
			tune(name, file)
		}
	}
	s = layOut(t, p)
	signingKey(t, s)
	return s
}

// liveLab is one whose gates hear soon that a node is silent, too.
func liveLab(t *testing.T, p lab.Plant) *stage {
	t.Helper()
	tune := p.Tune
	p.Tune = func(name string, file map[string]any) {
		if strings.HasPrefix(name, "gate") {
			file["gate"].(map[string]any)["timing"].(map[string]any)["stale"] = "2s"
		}
		if tune != nil {
			tune(name, file)
		}
	}
	return drillLab(t, p)
}

// TestLive drills a service under load, on one lab: there and back, then faults that it
// rides out, and at last the loss of its site, with a gate that lets it lose a little.
func TestLive(t *testing.T) {
	s := liveLab(t, lab.Plant{Primaries: 1, Returns: true})
	s.up(t)
	l := newLevers(t)
	frozen := func(name string) tree {
		return tree{
			"inject": []tree{l.command("freeze "+name, s.signals(name, syscall.SIGSTOP))},
			"heal":   []tree{l.command("thaw "+name, s.signals(name, syscall.SIGCONT))},
		}
	}
	file := liveFile(t, s, tree{"faults": tree{
		string(live.StandbyNodeLost): frozen("standby-d2"),
		string(live.ControllerLost):  frozen("gate"),
		string(live.AgentLost):       frozen("agent-p1"),
		// What is acknowledged once the agents stand still nobody carries over.
		string(live.PrimarySiteLost): tree{
			"inject": []tree{
				l.command("freeze the site", func() error { return s.FreezeSite(t.Context(), lab.SitePrimary, 700*time.Millisecond) }),
				l.command("kill the site", func() error { s.KillSite(lab.SitePrimary); return nil }),
			},
			"heal": []tree{l.command("start the site", s.restart)},
		},
	}})
	s.writer(t, s.Primaries(), 0)
	s.ready(t, "switchover", "d1")
	s.operate(t, 0, "gate", "freeze", "--reason", "test", lab.Service)
	says(t, s.ask(t, 4, "tidegate", "drill", "run", "--config", file, "--level", "L2", "--yes"), "role changes of ledger are frozen")
	s.operate(t, 0, "gate", "thaw", lab.Service)
	says(t, s.ask(t, 2, "tidegate", "drill", "run", "--config", file, "--level", "L2"), "--yes")
	says(t, s.ask(t, 0, "tidegate", "drill", "plan", "--config", file, "--level", "L3", "--scenario", "agent-lost"), "rides out", "inject: ", "the writer is silent")

	s.liveDrill(t, 0, file, "L2", "")
	for _, fault := range []live.Scenario{live.StandbyNodeLost, live.ControllerLost, live.AgentLost} {
		s.liveDrill(t, 0, file, "L3", fault)
	}
	s.nothingLost(t)

	for _, c := range lab.Currencies {
		s.operate(t, 0, "gate", "set", "--reason", "test", "--mode", "bounded", "--records", "300", "--bytes", "1048576", "--window", "2s", lab.Service+"/"+c)
	}
	s.until(t, "the gates to be bounded", func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		for _, x := range st.GetServices()[0].GetStreams() {
			if g := x.GetView().GetEpoch().GetGate(); g.GetMode() != pb.Mode_MODE_BOUNDED {
				return fmt.Errorf("%s: %s", x.GetView().GetName(), g.GetMode())
			}
		}
		return nil
	})
	rep := s.liveDrill(t, 0, file, "L3", live.PrimarySiteLost)
	if lost := rep.Lost; lost.Records == nil || *lost.Records == 0 || *lost.Actual == 0 || *lost.Actual > *lost.Objective {
		t.Errorf("lost %+v: want some, within the objective", lost)
	}
	s.until(t, "the gate to have the drill on record", func(ctx context.Context) error {
		st, err := s.Status(ctx)
		if d := st.GetServices()[0].GetPassedDrill(); err == nil && (d.GetLevel() != "L3" || d.GetId() != rep.ID.String()) {
			err = errors.New(d.String())
		}
		return err
	})
}

// linkDrilled has an operator's own drill cut the link between the sites, and mend it.
func linkDrilled(t *testing.T, a *act) {
	signingKey(t, a.stage)
	l := newLevers(t)
	both := func(do func(from, to string) error) func() error {
		return func() error {
			return errors.Join(do(lab.SitePrimary, lab.SiteDR), do(lab.SiteDR, lab.SitePrimary))
		}
	}
	file := liveFile(t, a.stage, tree{"faults": tree{string(live.LinkCut): tree{
		"inject": []tree{l.command("cut", both(a.Cut))}, "heal": []tree{l.command("mend", both(a.Mend))},
	}}})
	a.possible(t)
	a.fault()
	rep := a.liveDrill(t, 0, file, "L3", live.LinkCut)
	a.flows(t, "transfers after the link is back")
	a.note = fmt.Sprintf("drilled: mended after %s, clients waited for %s", since(a.begun), rep.Recovered.Actual.Round(time.Millisecond))
}

// restart starts the primary site's processes again.
func (s *stage) restart() (all error) {
	for _, p := range s.Procs(lab.SitePrimary) {
		all = errors.Join(all, p.Start())
	}
	return all
}
