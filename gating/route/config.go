package route

import (
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate/internal/config"
)

// Config configures the TCP proxy.
type Config struct {
	Gates        []string        `yaml:"gates"` // host:port of every gate, tried in turn
	Dir          string          `yaml:"dir"`   // where applied targets are kept
	Services     []ServiceConfig `yaml:"services"`
	DialTimeout  time.Duration   `yaml:"dial_timeout"`    // per endpoint; default 1s
	ConnsMax     int             `yaml:"connections_max"` // per service, more are refused; default 4096
	MetricsAddr  string          `yaml:"metrics"`         // host:port of /metrics; empty for none
	ReportPeriod time.Duration   `yaml:"report_period"`   // default 1s
}

// ServiceConfig says where the proxy takes a service's clients.
type ServiceConfig struct {
	Name   string   `yaml:"name"`
	Listen []string `yaml:"listen"` // host:port
}

// SetDefaults fills what was left out.
func (c Config) SetDefaults() Config {
	if c.DialTimeout == 0 {
		c.DialTimeout = time.Second // several round trips of a WAN; the next endpoint waits behind it
	}
	if c.ConnsMax == 0 {
		c.ConnsMax = 4096 // two descriptors each, half of a common limit of 20,000
	}
	if c.ReportPeriod == 0 {
		c.ReportPeriod = time.Second // as agents and standby nodes
	}
	return c
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	var errs []error
	if len(c.Gates) == 0 {
		errs = append(errs, config.Broken("gates", "want at least one host:port", c.Gates))
	}
	for i, g := range c.Gates {
		errs = append(errs, config.HostPort(fmt.Sprintf("gates[%d]", i), g))
	}
	errs = append(errs, config.AbsPath("dir", c.Dir))
	if len(c.Services) == 0 {
		errs = append(errs, config.Broken("services", "want at least one", c.Services))
	}
	seen := map[string]bool{}
	for i, s := range c.Services {
		path := fmt.Sprintf("services[%d]", i)
		errs = append(errs, config.Name(path+".name", s.Name))
		if seen[s.Name] {
			errs = append(errs, config.Broken(path+".name", "want each service once", s.Name))
		}
		seen[s.Name] = true
		if len(s.Listen) == 0 {
			errs = append(errs, config.Broken(path+".listen", "want at least one host:port", s.Listen))
		}
		for j, l := range s.Listen {
			errs = append(errs, config.HostPort(fmt.Sprintf("%s.listen[%d]", path, j), l))
		}
	}
	errs = append(errs,
		config.AtLeast("dial_timeout", c.DialTimeout, 10*time.Millisecond),
		config.AtLeast("connections_max", c.ConnsMax, 1),
		config.AtLeast("report_period", c.ReportPeriod, 10*time.Millisecond))
	if c.MetricsAddr != "" {
		errs = append(errs, config.HostPort("metrics", c.MetricsAddr))
	}
	return errors.Join(errs...)
}
