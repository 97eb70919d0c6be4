package daemon

import (
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pki"
)

// Credentials loads a role's certificate and checks that it speaks for node in
// that role: peers believe the certificate, and a file that says otherwise is a
// mistake that would only show as refused connections.
func Credentials(files config.TLS, node config.Node, role tidegate.Role) (*pki.Credentials, error) {
	creds, err := pki.Load(files.Cert, files.Key, files.CA)
	if err != nil {
		return nil, err
	}
	want := tidegate.Identity{Cluster: node.Cluster, Site: node.Site, Role: role, Name: string(node.Name)}
	if got := creds.Identity(); got != want {
		return nil, &tidegate.Error{
			Op: "load certificate", Subject: files.Cert, Class: tidegate.Misuse,
			Hint: "give the file of this node and role, or correct the node section",
			Err:  fmt.Errorf("speaks for %s, the configuration says %s", got, want),
		}
	}
	return creds, nil
}
