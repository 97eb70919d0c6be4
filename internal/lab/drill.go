package lab

import (
	"context"
	"fmt"
	"maps"
	"os"

	"go.yaml.in/yaml/v3"

	"github.com/tidegate/tidegate/drills/evidence"
)

// driller is the identity that drills of level L1 have.
const driller = "dora"

// SigningKey makes the key that drills sign with, drill.key, and its public half for the
// gates, drill.pub. Gates that name it in their file want it before Up.
func (l *Lab) SigningKey() error {
	key, err := evidence.NewKey(l.path("drill.key"))
	if err != nil {
		return err
	}
	return os.WriteFile(l.path("drill.pub"), key.Public().PEM(), 0o600)
}

// DrillFile writes the file of a drill that rehearses with a standby node, under an
// identity of its own and the lab's signing key, and returns its path. more says what is
// rehearsed, and wins over what the lab has.
func (l *Lab) DrillFile(ctx context.Context, node string, more map[string]any) (path string, err error) {
	identity := SiteDR + "/drill/" + driller
	if _, err := l.Command(ctx, l.bin("tidegate"), "dev", "pki", "--dir", l.pki(), "--cluster", cluster, "--identity", identity); err != nil {
		return "", err
	}
	file := tree{
		"service": Service, "standby": l.APIAddr(node), "gates": l.gateAddrs, "scratch": l.path("drills"), "live": []string{l.path("none")},
		"tls":        l.tls(SiteDR, "drill", driller),
		"objectives": tree{"rto": "1m"},
		"evidence":   tree{"directory": l.path("evidence"), "key": l.path("drill.key")},
	}
	maps.Copy(file, more)
	text, err := yaml.Marshal(file)
	if err != nil {
		return "", fmt.Errorf("write a drill's file: %w", err)
	}
	path = l.path("drill.yaml")
	return path, os.WriteFile(path, text, 0o600)
}

// LedgerDrill is the part of a drill's file that is the ledger's: its program, a canary of
// each currency, and a check. args are more of the program's. The caller may change it.
func (l *Lab) LedgerDrill(args ...string) map[string]any {
	var canaries []tree
	for _, currency := range Currencies {
		canaries = append(canaries, tree{
			"name": "open-" + currency,
			"write": tree{"http": tree{
				"method": "POST", "url": "http://{address:http}/accounts", "body": `{"client":"{canary}","currency":"` + currency + `","request":1,"to":"drill-{canary}"}`,
				"contains": `"code":"done"`,
			}},
			"read": tree{"http": tree{"url": "http://{address:http}/accounts/" + currency + "/drill-{canary}", "contains": `"balance":0`}},
		})
	}
	return tree{
		"program": tree{"follow": append([]string{
			l.bin("ledger"), "follow", "--name", "clone", "--service", Service, "--data", "{data}", "--run", "{run}", "--http", "{address:http}", "--raft", "{address:raft}",
		}, args...)},
		"canaries": canaries,
		"checks":   []tree{{"name": "leads", "http": tree{"url": "http://{address:http}/status", "contains": `"promoted":true`}}},
	}
}
