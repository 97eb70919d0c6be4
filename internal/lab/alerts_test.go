package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/lab"
)

const monitoring = "../../packaging/monitoring"

// prometheus is Debian's, which scrapes gate, agents and standby nodes by the jobs that
// are shipped, and judges by the rules.
type prometheus struct {
	*stage
	url string
}

// alerts breaks things until the alerts about them fire, with their labels, and mends
// them until none does.
func (p *prometheus) alerts(t *testing.T, s *stage) {
	a := &act{stage: s}
	a.set(t, "--rearm", "1s")
	p.quiet(t)

	d1, d2 := s.Proc("standby-d1"), s.Proc("standby-d2")
	d1.Kill()
	d2.Kill()
	for _, c := range lab.Currencies {
		p.fires(t, "TidegateStalled", "severity", "critical", "cluster", "lab", "service", lab.Service, "stream", c, "hop", "durable")
		p.fires(t, "TidegateGateBlocked", "service", lab.Service, "stream", c)
	}
	p.fires(t, "TidegateTargetDown", "severity", "warning", "job", "tidegate-standby", "instance", s.APIAddr("d2"))

	s.operate(t, 0, "gate", "open", "--reason", "the test goes on unprotected", lab.Service)
	p.fires(t, "TidegateGateDegraded", "severity", "critical", "service", lab.Service, "stream", "usd", "record", "degraded")
	p.fires(t, "TidegateRPOBreached", "severity", "critical", "service", lab.Service, "stream", "eur")
	p.fires(t, "TidegateServiceUnsafe", "service", lab.Service)

	name, epoch := s.writer(t, s.Primaries(), 0)
	agent := s.Proc("agent-" + name)
	agent.Kill()
	start(t, d1, d2)
	p.fires(t, "TidegateTargetDown", "job", "tidegate-agent", "instance", strings.TrimPrefix(s.AgentURL(name), "http://"))
	p.fires(t, "TidegateExposureUnknown", "severity", "critical", "cluster", "lab", "service", lab.Service, "stream", "eur")
	p.hasEveryMetric(t)

	start(t, agent)
	s.writer(t, s.Primaries(), epoch)
	s.operate(t, 0, "gate", "arm", "--reason", "everything is back", lab.Service)
	a.recorded(t, pb.GateState_GATE_STATE_ARMED)
	s.flows(t, "transfers under an armed gate")
	s.counts(t, "d1")
	s.counts(t, "d2")
	p.quiet(t)
	s.Proc("prometheus").Kill()
}

func start(t *testing.T, procs ...*lab.Proc) {
	t.Helper()
	for _, p := range procs {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
	}
}

// startPrometheus runs Prometheus as prometheus.yml and prometheus-agent.yml say, but
// for addresses, certificates, and times: it looks five times a second, progress is asked
// for in two seconds and not in a minute, and no alert waits, so that the test does not,
// either. Five seconds pass until it looks for the first time.
func startPrometheus(t *testing.T, s *stage) *prometheus {
	t.Helper()
	s.ask(t, 0, "tidegate", "dev", "pki", "--dir", s.File("pki"), "--cluster", "lab", "--identity", lab.SiteWitness+"/viewer/prometheus")
	rules, err := os.ReadFile(filepath.Join(monitoring, "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rules = regexp.MustCompile(`(?m)^( +for: ).*$`).ReplaceAll(rules, []byte("${1}0s"))
	rules = regexp.MustCompile(`\[1m\]`).ReplaceAll(rules, []byte("[2s]"))
	config := readTree(t, filepath.Join(monitoring, "prometheus.yml"))
	config["global"] = map[string]any{"scrape_interval": "200ms", "evaluation_interval": "200ms"}
	config["rule_files"] = []string{s.File("rules.yaml")}
	config["scrape_configs"] = append(s.jobs(config), s.jobs(readTree(t, filepath.Join(monitoring, "prometheus-agent.yml")))...)
	text, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(s.File("rules.yaml"), rules, 0o600), os.WriteFile(s.File("prometheus.yml"), text, 0o600)); err != nil {
		t.Fatal(err)
	}
	addr, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	err = s.StartProc("prometheus", lab.SiteWitness, "prometheus", "--config.file="+s.File("prometheus.yml"), "--storage.tsdb.path="+s.File("tsdb"),
		"--web.listen-address="+addr, "--log.level=warn")
	if err != nil {
		t.Fatalf("%v\nit is in Debian's package prometheus: tools/needs", err)
	}
	return &prometheus{s, "http://" + addr}
}

func readTree(t *testing.T, path string) (out map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// jobs are a configuration's, with the lab's targets; those that a lab has none for are
// left out.
func (s *stage) jobs(config map[string]any) (out []any) {
	targets := map[string][]string{"tidegate-gate": {s.Gate()}}
	for _, m := range s.Standbys() {
		targets["tidegate-standby"] = append(targets["tidegate-standby"], s.APIAddr(m))
	}
	for _, m := range append(s.Primaries(), s.Standbys()...) {
		targets["tidegate-agent"] = append(targets["tidegate-agent"], strings.TrimPrefix(s.AgentURL(m), "http://"))
	}
	for _, one := range config["scrape_configs"].([]any) {
		job := one.(map[string]any)
		at := targets[job["job_name"].(string)]
		if at == nil {
			continue
		}
		job["static_configs"] = []any{map[string]any{"targets": at, "labels": map[string]string{"cluster": "lab"}}}
		delete(job, "relabel_configs") // which give a machine's one agent the machine's name
		if job["tls_config"] != nil {
			file := func(name string) string { return s.File("pki", name) }
			job["tls_config"] = map[string]string{"ca_file": file("ca.crt"), "cert_file": file("north-viewer-prometheus.crt"), "key_file": file("north-viewer-prometheus.key")}
		}
		out = append(out, job)
	}
	return out
}

// sample is one series of an answer.
type sample struct {
	Metric map[string]string
}

// query returns what an expression gives now.
func (p *prometheus) query(ctx context.Context, expr string) ([]sample, error) {
	var answer struct {
		Data struct{ Result []sample }
	}
	err := lab.GetJSON(ctx, p.url+"/api/v1/query?query="+url.QueryEscape(expr), &answer)
	return answer.Data.Result, err
}

// fires waits until an alert fires that has the labels, which are given in pairs.
func (p *prometheus) fires(t *testing.T, name string, labels ...string) {
	t.Helper()
	expr := fmt.Sprintf(`ALERTS{alertname=%q,alertstate="firing"`, name)
	for i := 0; i < len(labels); i += 2 {
		expr += fmt.Sprintf(`,%s=%q`, labels[i], labels[i+1])
	}
	p.until(t, expr+"}", func(ctx context.Context) error {
		got, err := p.query(ctx, expr+"}")
		if err == nil && len(got) != 1 {
			all, _ := p.query(ctx, "ALERTS")
			err = fmt.Errorf("%d of them; all alerts: %v", len(got), all)
		}
		return err
	})
}

// quiet waits until every target is scraped, exposure is known, and no alert fires.
func (p *prometheus) quiet(t *testing.T) {
	t.Helper()
	p.until(t, "no alert to fire", func(ctx context.Context) error {
		for expr, want := range map[string]int{
			`up == 1`: 1 + len(p.Standbys()) + len(p.Primaries()) + len(p.Standbys()), `stream:tidegate_rpo_used:ratio <= 1`: len(lab.Currencies), `ALERTS`: 0,
		} {
			got, err := p.query(ctx, expr)
			if err != nil {
				return err
			}
			if len(got) != want {
				return fmt.Errorf("%s: want %d, got %v", expr, want, got)
			}
		}
		return nil
	})
}

// shippedName is a metric of ours as rules and dashboards name it, recorded ones too.
var shippedName = regexp.MustCompile(`\b(?:[a-z]+:)?tidegate_[a-z0-9_]+(?::[a-z]+)?`)

// hasEveryMetric looks at the names that rules and dashboards ask for: each is one that
// the processes of this lab have exported, or that a rule has recorded of them.
func (p *prometheus) hasEveryMetric(t *testing.T) {
	t.Helper()
	var answer struct{ Data []string }
	p.within(t, func(ctx context.Context) error {
		return lab.GetJSON(ctx, p.url+"/api/v1/label/__name__/values", &answer)
	})
	dashboards, err := filepath.Glob(filepath.Join(monitoring, "grafana", "dashboards", "*.json"))
	if err != nil || len(dashboards) == 0 {
		t.Fatalf("dashboards: %v, %v", dashboards, err)
	}
	for _, path := range append(dashboards, filepath.Join(monitoring, "rules.yaml")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range shippedName.FindAllString(string(text), -1) {
			// A phase is compared from eight drills on: gating's TestMetrics has a gate export this.
			if name != "tidegate_gate_drill_phase_slower" && !slices.Contains(answer.Data, name) {
				t.Errorf("%s: no process of the lab exports %s", path, name)
			}
		}
	}
}
