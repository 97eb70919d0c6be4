package live

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/internal/config"
)

// TestSample: the one that operators begin with is read, and asks what it names alone.
func TestSample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operating/drills.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "## The live service\n")
	_, rest, _ = strings.Cut(rest, "```yaml\n")
	yaml, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("no sample in docs/operating/drills.md")
	}
	c, err := config.Parse[Config]("drills.md", []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	k := c.Canaries[0]
	if k.Service != "ledger" || k.Write.Timeout != writeTimeout || k.Read.Timeout != 10*time.Second || c.Faults[LinkCut].Inject[0].Timeout != 30*time.Second || len(c.Faults[Thermal].Inject) != 3 {
		t.Errorf("defaults: %+v", c)
	}
	if all := c.addresses(); len(all) != 1 || !all["ledger.example:80"] {
		t.Errorf("addresses %v", all)
	}
	for _, s := range Scenarios() {
		if !strings.Contains(string(text), "`"+string(s)+"`") {
			t.Errorf("%s is not in the table", s)
		}
	}
}

// TestMistakes: all of them at once, each with its place.
func TestMistakes(t *testing.T) {
	t.Parallel()
	_, err := config.Parse[Config]("live.yaml", []byte(`
service: Bank
operator: {gates: [nowhere], tls: {ca: a, cert: /b, key: /c}, overrides: {capacity: " "}}
canaries:
  - name: one
    service: till
    write: {http: {url: "http://{address:http}/write"}}
    read: {sql: {where: "postgres://dora:secret@db.example/bank", query: "select 1"}}
checks:
  - {name: one, http: {url: "ftp://x"}}
every: 1ms
hold: -1s
faults:
  meteor: {inject: [{run: [touch]}]}
  link-cut: {heal: [{run: [], timeout: -1s}], inject: [{run: [/bin/true], then: -1s}]}
objectives: {rpo: -1s}
evidence: {directory: e, key: /k}
`))
	if err == nil {
		t.Fatal("no mistakes")
	}
	for _, want := range []string{
		"service:", "operator.gates[0]", "operator.tls.ca", "operator.overrides", "canaries[0].write.http.url", "canaries[0].write: want {canary}", "canaries[0].read",
		"canaries: want at least one of the service", "checks[0].name", "checks[0].http.url", "every:", "hold:", "faults.meteor: want one of the scenarios", "faults.meteor.inject[0].run[0]",
		"faults.meteor.heal", "faults.link-cut.heal[0].run", "faults.link-cut.heal[0].timeout", "faults.link-cut.inject[0].then", "objectives.rpo", "evidence.directory",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("a password: %v", err)
	}
}
