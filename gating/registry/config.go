package registry

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
)

// Config says where the registry is. Without endpoints the gate runs a member
// of its own under Dir.
type Config struct {
	Endpoints []string      `yaml:"endpoints"` // of an existing etcd cluster; empty runs one member inside the gate
	TLS       TLS           `yaml:"tls"`       // for an existing cluster
	Dir       string        `yaml:"dir"`       // the embedded member's data, and this gate's mark
	Socket    string        `yaml:"socket"`    // the embedded member's client socket; default <dir>/etcd.sock
	Sites     []string      `yaml:"sites"`     // where the members of an existing cluster stand, a site per member; empty: not known
	Timeout   time.Duration `yaml:"timeout"`   // of one request; default 3s
	LeaderTTL time.Duration `yaml:"leader_ttl"`
}

// TLS names the files that authenticate this gate to an existing etcd cluster.
type TLS struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// socketLenMax is what struct sockaddr_un holds, less the terminating zero.
const socketLenMax = 107

// SetDefaults fills what was left out.
func (c Config) SetDefaults() Config {
	if c.Socket == "" && c.Dir != "" {
		c.Socket = filepath.Join(c.Dir, "etcd.sock")
	}
	if c.Timeout == 0 {
		c.Timeout = 3 * time.Second // two election timeouts of etcd
	}
	if c.LeaderTTL == 0 {
		c.LeaderTTL = 5 * time.Second // a killed leader's plans wait this long for the next one
	}
	return c
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	var errs []error
	bad := func(path, rule string, got any) { errs = append(errs, config.Broken(path, rule, got)) }
	if c.Dir == "" {
		bad("dir", "want a directory", c.Dir)
	}
	if len(c.Endpoints) == 0 && len(c.Socket) > socketLenMax {
		bad("socket", fmt.Sprintf("want at most %d bytes", socketLenMax), c.Socket)
	}
	for i, e := range c.Endpoints {
		if e == "" {
			bad(fmt.Sprintf("endpoints[%d]", i), "want a URL", e)
		}
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		bad("tls", "want cert and key together", c.TLS.Cert+c.TLS.Key)
	}
	if c.TLS != (TLS{}) && len(c.Endpoints) == 0 {
		bad("tls", "want none without endpoints: the embedded member listens on a socket that only the gate's user may open", c.TLS.CA+c.TLS.Cert)
	}
	if len(c.Sites) > 0 && c.Embedded() {
		bad("sites", "want none without endpoints: the embedded member stands where its gate does", c.Sites)
	}
	for i, s := range c.Sites {
		if tidegate.ValidName(s) != nil {
			bad(fmt.Sprintf("sites[%d]", i), "want the name of a site", s)
		}
	}
	if c.Timeout < 100*time.Millisecond {
		bad("timeout", "want at least 100ms", c.Timeout)
	}
	if c.LeaderTTL < 2*time.Second {
		bad("leader_ttl", "want at least 2s, which is etcd's own minimum", c.LeaderTTL)
	}
	return errors.Join(errs...)
}

// SurvivesSite reports whether a majority of the registry's members is left when
// any one site is lost. Where they stand is the operator's word: etcd does not
// know. What nobody has said does not hold, and one member never survives.
//
// Whatever must be recorded while a site is lost (a degradation, a lease, a
// failover that nobody ordered) rests on it.
func (c Config) SurvivesSite() bool {
	at := map[string]int{}
	for _, s := range c.Sites {
		at[s]++
	}
	for _, n := range at {
		if (len(c.Sites)-n)*2 <= len(c.Sites) {
			return false
		}
	}
	return len(c.Sites) > 0
}

// Embedded reports whether the gate runs its own member.
func (c Config) Embedded() bool { return len(c.Endpoints) == 0 }
