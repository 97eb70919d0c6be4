package names

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/tidegate/tidegate/internal/config"
)

// The drivers, as a file names them.
const (
	AlterSystem = "alter-system"
	Patroni     = "patroni"
	Exec        = "exec"
)

// DefaultTimeout bounds one attempt: Patroni asks its own store before it answers.
const DefaultTimeout = 10 * time.Second

// Config is the section names of a stream's settings.
type Config struct {
	// Driver is alter-system, patroni or exec; "" leaves the setting to the operator.
	Driver  string        `yaml:"driver"`
	Patroni PatroniConfig `yaml:"patroni"`
	Exec    ExecConfig    `yaml:"exec"`
	// Timeout bounds one attempt of patroni or exec.
	Timeout time.Duration `yaml:"timeout"`
}

// PatroniConfig is how to reach Patroni's REST API.
type PatroniConfig struct {
	// URL is the API of the Patroni beside the server: it is the one that acts at once.
	URL string `yaml:"url"`
	// User and PasswordFile are those of Patroni's restapi.authentication.
	User         string `yaml:"user"`
	PasswordFile string `yaml:"password_file"`
	// CA is whom the API's certificate must be signed by; "" trusts the system's.
	CA string `yaml:"ca"`
	// Cert and Key are shown to an API that wants a certificate of its clients.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// ExecConfig is a program of the operator's.
type ExecConfig struct {
	// Command is the program and its arguments. It gets the names in the environment,
	// as TIDEGATE_STANDBY_NAMES, empty for nobody, and exits with 0 when it has set them.
	Command []string `yaml:"command"`
}

// SetDefaults returns c with every unset key at its default.
func (c Config) SetDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	return c
}

// IsZero reports whether nothing is configured.
func (c Config) IsZero() bool { return c.Driver == "" }

// Local reports whether the driver sets the names of one server by itself, so that
// they can be made ready on one that follows. The others' owners speak for a whole
// cluster, or are asked by a program of which nobody knows that.
func (c Config) Local() bool { return c.Driver == AlterSystem }

// Validate reports every broken rule.
func (c Config) Validate() error {
	all := []error{config.AtLeast("timeout", int64(c.Timeout), 1)}
	switch c.Driver {
	case "", AlterSystem, Patroni, Exec:
	default:
		all = append(all, config.Broken("driver", "want alter-system, patroni or exec", c.Driver))
	}
	if c.Driver == Patroni {
		all = append(all, config.Under("patroni", c.Patroni.validate()))
	} else if c.Patroni != (PatroniConfig{}) {
		all = append(all, config.Broken("patroni", "want it with driver patroni only", fmt.Sprintf("driver %s", c.Driver)))
	}
	if c.Driver == Exec {
		all = append(all, c.Exec.validate())
	} else if len(c.Exec.Command) > 0 {
		all = append(all, config.Broken("exec", "want it with driver exec only", fmt.Sprintf("driver %s", c.Driver)))
	}
	return errors.Join(all...)
}

func (c PatroniConfig) validate() error {
	var all []error
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		all = append(all, config.Broken("url", "want an address such as http://127.0.0.1:8008", c.URL))
		u = &url.URL{Scheme: "https"}
	}
	if (c.User == "") != (c.PasswordFile == "") {
		all = append(all, config.Broken("user", "want user and password_file, or neither", c.User))
	}
	if (c.Cert == "") != (c.Key == "") {
		all = append(all, config.Broken("cert", "want cert and key, or neither", c.Cert))
	}
	for _, f := range []struct {
		key, path string
		tls       bool
	}{{"password_file", c.PasswordFile, false}, {"ca", c.CA, true}, {"cert", c.Cert, true}, {"key", c.Key, true}} {
		if f.path == "" {
			continue
		}
		all = append(all, config.AbsPath(f.key, f.path))
		if f.tls && u.Scheme != "https" {
			all = append(all, config.Broken(f.key, "want none without https", f.path))
		}
	}
	return errors.Join(all...)
}

func (c ExecConfig) validate() error {
	if len(c.Command) == 0 {
		return config.Broken("exec.command", "want a program and its arguments", c.Command)
	}
	return config.AbsPath("exec.command[0]", c.Command[0])
}
