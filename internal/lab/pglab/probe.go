package pglab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/stores/postgres/probe"
)

// probePassword is the password of the role that the gate's synthetic client has.
const probePassword = "watchword"

// probeSchema is what docs/operating/postgresql.md has for it.
const probeSchema = "CREATE ROLE tidegate_probe LOGIN PASSWORD '" + probePassword + "'; " + probe.Setup

// probeSection is the gate's synthetic client: a write through the route, ten times a
// second, and one at the promoted server before clients are sent there.
func (l *Lab) probeSection(route string) map[string]any {
	host, port, _ := net.SplitHostPort(route) // the lab made it
	return map[string]any{
		"service": lab.Service, "kind": probe.Kind, "every": "100ms", "timeout": "1s", "verify": true,
		"settings": map[string]any{
			"conn": fmt.Sprintf("host=%s port=%s user=tidegate_probe dbname=postgres sslmode=disable passfile=%s", host, port, l.passfile()),
		},
	}
}

func (l *Lab) passfile() string { return filepath.Join(l.cfg.Dir, "pgpass") }

// writePassfile gives the gate the password; the servers' TLS is for other tests.
func (l *Lab) writePassfile() error {
	return os.WriteFile(l.passfile(), []byte("*:*:postgres:tidegate_probe:"+probePassword+"\n"), 0o600)
}
