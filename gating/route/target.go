package route

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/tidegate/tidegate"
)

// Target is where the clients of a service belong.
type Target struct {
	Service   tidegate.ServiceName `json:"service"`
	Epoch     tidegate.Epoch       `json:"epoch"` // highest among the service's streams
	Site      tidegate.SiteName    `json:"site"`
	Endpoints []string             `json:"endpoints"` // host:port in order of preference
	Since     time.Time            `json:"since"`     // wall clock of the gate; information only
}

// Validate reports the first broken rule.
func (t Target) Validate() error {
	if err := tidegate.ValidName(string(t.Service)); err != nil {
		return fmt.Errorf("route: service %w", err)
	}
	if t.Epoch == 0 || len(t.Endpoints) == 0 {
		return fmt.Errorf("route %s: epoch %s with %d endpoints: want both", t.Service, t.Epoch, len(t.Endpoints))
	}
	for _, e := range t.Endpoints {
		if _, _, err := net.SplitHostPort(e); err != nil {
			return fmt.Errorf("route %s: endpoint %q: want host:port", t.Service, e)
		}
	}
	return nil
}

// Driver puts targets into effect.
type Driver interface {
	// Switch returns nil once the target is in effect. It may be called again
	// with the same target, after a restart or a lost answer, and must then
	// return nil too. After an error the old or the new target is in effect.
	Switch(ctx context.Context, t Target) error
	// Name tells drivers apart in logs and plans: "exec", "file".
	Name() string
}
