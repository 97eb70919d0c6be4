package agentd

import (
	"strings"
	"testing"

	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/config"
)

func parsed(t *testing.T, settings string) agent.Config {
	t.Helper()
	cfg, err := config.Parse[agent.Config]("test", []byte(`
node: {cluster: c, site: east, name: n1}
tls: {ca: /x/ca, cert: /x/cert, key: /x/key}
gates: ["127.0.0.1:1"]
listen: 127.0.0.1:1
streams: [{service: shop, stream: main, source: postgres, settings: {conn: "host=/s user=u", slot: s`+settings+`}}]
`))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestCaptureFromAReplicaIsSaidAndKeptFromPromising(t *testing.T) {
	if notes := Notes(parsed(t, "")); len(notes) > 0 {
		t.Errorf("of a primary: %q", notes)
	}
	cfg := parsed(t, ", replica: true")
	if err := Check(cfg); err != nil {
		t.Error(err)
	}
	if notes := Notes(cfg); len(notes) != 1 || !strings.Contains(notes[0], "shop/main must be in mode open") {
		t.Errorf("notes %q", notes)
	}
	if err := Check(parsed(t, ", replica: true, names: {driver: alter-system}")); err == nil || !strings.Contains(err.Error(), "replica: want no driver of names") {
		t.Error(err)
	}
}
