package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// monitoring is what is shipped for Prometheus and Grafana. That each metric it names
// is there in a scrape of real processes is internal/lab's to show, which also has the
// alerts fire.
const (
	monitoring     = "../../packaging/monitoring"
	monitoringPage = "../../docs/operating/monitoring.md"
)

// promtool runs Prometheus' own check in a directory.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s\nit is in Debian's package prometheus: tools/needs", strings.Join(args, " "), err, out)
	}
}

func TestPrometheusTakesWhatIsShipped(t *testing.T) {
	promtool(t, monitoring, "check", "rules", "rules.yaml")
	promtool(t, monitoring, "test", "rules", "rules_test.yaml")
	promtool(t, monitoring, "check", "config", "--syntax-only", "prometheus.yml") // its files are not on this machine
	promtool(t, monitoring, "check", "config", "--syntax-only", "--agent", "prometheus-agent.yml")
}

// rule is one of rules.yaml.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

func shippedRules(t *testing.T) []rule {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	readYAML(t, filepath.Join(monitoring, "rules.yaml"), &file)
	var out []rule
	for _, g := range file.Groups {
		out = append(out, g.Rules...)
	}
	if len(out) < 20 {
		t.Fatalf("%d rules", len(out))
	}
	return out
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// Whoever is woken finds out what it means and what to do, and the alert has been seen
// to fire and to keep quiet.
func TestAlertsAreTestedAndExplained(t *testing.T) {
	var tests struct {
		Tests []struct {
			Alerts []struct {
				Name string `yaml:"alertname"`
				Want []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, filepath.Join(monitoring, "rules_test.yaml"), &tests)
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, x := range tests.Tests {
		for _, a := range x.Alerts {
			fires[a.Name], quiet[a.Name] = fires[a.Name] || len(a.Want) > 0, quiet[a.Name] || len(a.Want) == 0
		}
	}
	page, err := os.ReadFile(monitoringPage)
	if err != nil {
		t.Fatal(err)
	}
	alerts := map[string]bool{}
	for _, r := range shippedRules(t) {
		if r.Alert == "" {
			continue
		}
		alerts[r.Alert] = true
		a := r.Annotations
		switch {
		case !fires[r.Alert] || !quiet[r.Alert]:
			t.Errorf("%s: want one test in which it fires and one in which it does not", r.Alert)
		case !slices.Contains([]string{"critical", "warning"}, r.Labels["severity"]):
			t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
		case a["summary"] == "" || !strings.Contains(a["description"], "`tidegate"):
			t.Errorf("%s: want a summary, and a description with what to run", r.Alert)
		case !strings.HasSuffix(a["runbook_url"], "/docs/operating/monitoring.md#alerts"):
			t.Errorf("%s: runbook %q", r.Alert, a["runbook_url"])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(Tidegate[A-Za-z]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		if !alerts[m[1]] {
			t.Errorf("%s explains %s, and there is no such alert", monitoringPage, m[1])
		}
		delete(alerts, m[1])
	}
	for name := range alerts {
		t.Errorf("%s does not explain %s", monitoringPage, name)
	}
}

type panel struct {
	Type, Title string
	Datasource  datasource
	Targets     []struct {
		Expr       string
		Datasource datasource
	}
	FieldConfig struct {
		Defaults struct {
			NoValue    string
			Custom     struct{ Stacking struct{ Mode string } }
			Mappings   []map[string]any
			Thresholds struct {
				Steps []struct {
					Color string
					Value *float64
				}
			}
		}
	}
}

type datasource struct{ Type, UID string }

type dashboard struct {
	UID, Title string
	Panels     []panel
	Templating struct {
		List []variable
	}
}

type variable struct {
	Name, Type        string
	Query             any
	Multi, IncludeAll bool
}

// fromGrafana is what Grafana, and nobody else, puts into an expression.
var fromGrafana = strings.NewReplacer("$__rate_interval", "1m", "$cluster", ".*", "$service", ".*")

func TestDashboards(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(monitoring, "grafana", "dashboards", "*.json"))
	if err != nil || len(files) != 3 {
		t.Fatalf("dashboards: %v, %v", files, err)
	}
	var exprs []map[string]string
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if d.UID+".json" != filepath.Base(path) || d.Title == "" || len(d.Panels) < 5 || d.Templating.List[0].Type != "datasource" {
			t.Errorf("%s: uid %q, title %q, %d panels, first variable %v", path, d.UID, d.Title, len(d.Panels), d.Templating.List[0])
		}
		if m := regexp.MustCompile(`https?:|localhost|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+`).Find(text); m != nil {
			t.Errorf("%s names a host: %s", path, m)
		}
		for _, p := range d.Panels {
			for _, x := range p.Targets {
				exprs = append(exprs, map[string]string{"record": fmt.Sprintf("panel:%d", len(exprs)), "expr": fromGrafana.Replace(x.Expr)})
				if x.Datasource.UID != "${datasource}" {
					t.Errorf("%s: %s: data source %q", path, p.Title, x.Datasource.UID)
				}
			}
			if p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
				t.Errorf("%s: %s: data source %q, %d targets", path, p.Title, p.Datasource.UID, len(p.Targets))
			}
			for _, wrong := range append(p.greenWhereUnknown(), d.stacksOfMany(p)...) {
				t.Errorf("%s: %s: %s", path, p.Title, wrong)
			}
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "panels", "rules": exprs}}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "panels.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, dir, "check", "rules", "panels.yaml")
}

// stacksOfMany says where a panel adds up phases that are not of one recovery: of several
// drills, of a way back, or behind what the objective is of.
func (d *dashboard) stacksOfMany(p panel) (wrong []string) {
	for _, x := range p.Targets {
		if p.FieldConfig.Defaults.Custom.Stacking.Mode != "normal" || !strings.Contains(x.Expr, "tidegate_gate_drill_phase_seconds") {
			continue
		}
		if !strings.Contains(x.Expr, `phase!~"reconstitute|back-.*"`) {
			wrong = append(wrong, "adds up what is behind the recovery")
		}
		for _, by := range []string{"level", "scenario"} {
			one := slices.ContainsFunc(d.Templating.List, func(v variable) bool { return v.Name == by && !v.Multi && !v.IncludeAll })
			if !one || !strings.Contains(x.Expr, fmt.Sprintf(`%s="$%s"`, by, by)) {
				wrong = append(wrong, "adds up phases of more than one "+by)
			}
		}
	}
	return wrong
}

// greenWhereUnknown says where a panel would show what is not known as if it were well.
func (p *panel) greenWhereUnknown() (wrong []string) {
	d := p.FieldConfig.Defaults
	if d.NoValue != "unknown" {
		wrong = append(wrong, "shows another word than unknown where there is nothing")
	}
	if p.Type == "timeseries" { // a line that is not there has no colour
		return wrong
	}
	if len(d.Thresholds.Steps) == 0 || d.Thresholds.Steps[0].Value != nil || strings.Contains(d.Thresholds.Steps[0].Color, "green") {
		wrong = append(wrong, "what has no value has the colour of the first step, which must be there, and not be green")
	}
	special := false
	for _, m := range d.Mappings {
		text, _ := json.Marshal(m)
		special = special || m["type"] == "special" && strings.Contains(string(text), `"match":"null+nan"`) && strings.Contains(string(text), `"text":"unknown"`)
		options, _ := m["options"].(map[string]any)
		for _, o := range options {
			if s := fmt.Sprint(o); strings.Contains(s, "unknown") && strings.Contains(s, "green") {
				wrong = append(wrong, "unknown is green")
			}
		}
	}
	if !special {
		wrong = append(wrong, "no mapping of null and NaN to unknown")
	}
	return wrong
}

// metricName is a metric of ours, or a recorded one.
var metricName = regexp.MustCompile(`\b(?:[a-z]+:)?tidegate_[a-z0-9_]+(?::[a-z]+)?`)

// What rules and dashboards name is documented, or recorded by a rule.
func TestMonitoringNamesMetricsThatExist(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]bool{}
	for _, r := range shippedRules(t) {
		recorded[r.Record] = true
	}
	files, _ := filepath.Glob(filepath.Join(monitoring, "grafana", "dashboards", "*.json"))
	named := 0
	for _, path := range append(files, filepath.Join(monitoring, "rules.yaml"), filepath.Join(monitoring, "rules_test.yaml")) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(text), -1) {
			named++
			if whole := strings.TrimSuffix(name, "_bucket"); !recorded[name] && !strings.Contains(string(doc), "`"+whole+"`") {
				t.Errorf("%s: there is no metric %s", path, name)
			}
		}
	}
	if named < 100 {
		t.Errorf("found %d names", named)
	}
}
