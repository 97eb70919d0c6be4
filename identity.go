package tidegate

import (
	"fmt"
	"net/url"
	"strings"
)

// Role is what a certificate's bearer may do.
type Role string

// The roles. A standby may relay another node's ack, never originate one for it.
const (
	RoleAgent    Role = "agent"    // hold the writer role of a stream, observe
	RoleStandby  Role = "standby"  // keep logs, relay, apply
	RoleGate     Role = "gate"     // fence, adopt, promote
	RoleRoute    Role = "route"    // learn where a service is served
	RoleOperator Role = "operator" // change the world
	RoleViewer   Role = "viewer"   // read
	RoleDrill    Role = "drill"    // read what a standby node keeps, to rehearse with it; change nothing
)

// Identity is who a certificate speaks for: its URI SAN
// tidegate://<cluster>/<site>/<role>/<name>.
type Identity struct {
	Cluster string
	Site    SiteName
	Role    Role
	Name    string
}

func (id Identity) String() string {
	return fmt.Sprintf("tidegate://%s/%s/%s/%s", id.Cluster, id.Site, id.Role, id.Name)
}

// URL returns the URI SAN.
func (id Identity) URL() *url.URL {
	return &url.URL{Scheme: "tidegate", Host: id.Cluster, Path: fmt.Sprintf("/%s/%s/%s", id.Site, id.Role, id.Name)}
}

// ParseIdentity parses and checks the URI SAN form.
func ParseIdentity(s string) (Identity, error) {
	rest, ok := strings.CutPrefix(s, "tidegate://")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 4 {
		return Identity{}, fmt.Errorf("parse identity %q: want tidegate://<cluster>/<site>/<role>/<name>", s)
	}
	id := Identity{Cluster: parts[0], Site: SiteName(parts[1]), Role: Role(parts[2]), Name: parts[3]}
	for _, p := range []string{parts[0], parts[1], parts[3]} {
		if err := ValidName(p); err != nil {
			return Identity{}, fmt.Errorf("parse identity %q: %w", s, err)
		}
	}
	switch id.Role {
	case RoleAgent, RoleStandby, RoleGate, RoleRoute, RoleOperator, RoleViewer, RoleDrill:
		return id, nil
	}
	return Identity{}, fmt.Errorf("parse identity %q: unknown role %q", s, id.Role)
}
