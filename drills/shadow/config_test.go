package shadow

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/internal/config"
)

// sample is the one that operators begin with.
func sample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operating/drills.md")
	if err != nil {
		t.Fatal(err)
	}
	return fenced(t, string(text))
}

// fenced is the first sample in a text.
func fenced(t *testing.T, text string) string {
	t.Helper()
	_, rest, _ := strings.Cut(text, "```yaml\n")
	yaml, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("no sample in docs/operating/drills.md")
	}
	return yaml
}

// TestSampleOfPostgres: what stands in place of program, canaries and checks.
func TestSampleOfPostgres(t *testing.T) {
	text, err := os.ReadFile("../../docs/operating/drills.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## PostgreSQL\n")
	whole := sample(t)
	head, _, _ := strings.Cut(whole, "program:\n")
	_, rest, _ := strings.Cut(whole, "\nobjectives:")
	file := head + fenced(t, section) + "objectives:" + rest
	c, err := config.Parse[Config]("drills.md", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if pg := c.Postgres; pg.User != "postgres" || *pg.Amcheck != 10*time.Minute || len(pg.Settings) != 2 {
		t.Errorf("%+v", pg)
	}
	file = strings.Replace(file, "postgres:\n", "program: {follow: [/bin/true, \"{data}\", \"{run}\"]}\npostgres:\n  bin_dir: here\n", 1)
	file = strings.Replace(strings.Replace(file, "amcheck: 10m", "amcheck: -1s", 1), "settings: {", "settings: {archive_command: scp, shared_preload_libraries: timescaledb, ", 1)
	_, err = config.Parse[Config]("drill.yaml", []byte(file))
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{"program.follow: want none beside postgres", "postgres.bin_dir", "postgres.amcheck", "postgres.settings.archive_command"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing of %s in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), preload) {
		t.Error(err)
	}
}

func TestSample(t *testing.T) {
	c, err := config.Parse[Config]("drills.md", []byte(sample(t)))
	if err != nil {
		t.Fatal(err)
	}
	if c.Wait != time.Minute || c.Checks[0].Timeout != 10*time.Second || c.Journeys[0].Steps[1].HTTP.Status != 200 || c.Canaries[0].Read.HTTP.Method != http.MethodGet || len(c.Live) != 2 || c.Blocking[0].String() != "records_behind_min < 100000 for 10s" ||
		c.Recovery.Approach != recovery.PassiveStandby || c.Recovery.Outputs.TailMin != 10 || c.Recovery.Outputs.Golden.Timeout != time.Minute {
		t.Errorf("defaults: %+v", c)
	}
	if got := strings.Join(c.addresses(), " "); got != "{address:http} {address:raft}" {
		t.Errorf("addresses %s", got)
	}
}

// TestMistakes: all of them at once, each with its place.
func TestMistakes(t *testing.T) {
	_, err := config.Parse[Config]("drill.yaml", []byte(`
service: Bank
standby: nowhere
tls: {ca: a, cert: /b, key: /c}
scratch: /var/lib/tidegate/a/very/long/path/to/the/scratch/folder/of/drills
live: [run]
program:
  follow: [bank, "{data}", "{home}"]
  environment: {TIDEGATE_DRILL: x}
rate: fast
canaries:
  - name: one
    write: {http: {url: "http://live.example/write"}}
    read: {http: {url: "http://{address:http}/x", status: 7}, command: {run: [/bin/true]}}
  - name: of-nobody
    write: {http: {url: "http://{address:http}/x", contains: "{canary}"}}
    read: {http: {url: "http://{address:http}/x", contains: done}}
  - name: of-anything
    write: {command: {run: [/bin/true, "{canary}"]}}
    read: {http: {url: "http://{address:http}/{canary}"}}
checks:
  - name: one
    command: {run: [ls], exit: 256}
    timeout: 20m
  - {name: two}
recovery:
  required: perfect
  approach: hot
  outputs:
    before: {http: {url: "http://live.example/outputs"}}
    golden: {sql: {where: "host={run}", query: "select 1"}}
    tail_min: -1
assertions: [blind_window < 1s, exposure_age < 2s, blind_window]
blocking: [blind_window_p99 < 1s]
records: [{name: two, command: {run: [/bin/true]}}]
journeys: [{name: three, steps: []}]
wiat: 1s
`))
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{
		"service", "standby", "gates", "tls.ca", "scratch", "live[0]", "program.follow[0]", "program.follow[2]", "{run}", "program.environment", "rate",
		"canaries[0].write.http.url", "canaries[0].read", "canaries[1].write: want {canary}", "canaries[1].read: want {canary}", "canaries[2].read: want contains", "checks[0].name", "checks[0].command.run[0]", "checks[0].command.exit", "checks[0].timeout", "checks[1]",
		"recovery.required", "recovery.approach", "recovery.outputs.before.http.url", "recovery.outputs.after: want http or command", "recovery.outputs.golden: want http or command", "recovery.outputs.tail_min",
		"records[0].name", "records[0].age.within", "journeys[0].steps", "assertions[1]: want one of blind_window, bytes_behind, records_behind: nobody says exposure_age here", "assertions[2]", "blocking[0]: want `for TIME`", "evidence.directory", "evidence.key", `did you mean "wait"?`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing of %s in:\n%v", want, err)
		}
	}
}
