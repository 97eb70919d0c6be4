package notify

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/config"
)

// Config is one receiver: a webhook or a program.
type Config struct {
	Name     string   `yaml:"name"` // of its cursor: a renamed receiver is a new one
	Webhook  Webhook  `yaml:"webhook"`
	Exec     Exec     `yaml:"exec"`
	Actions  []string `yaml:"actions"`  // of the audit trail; all when empty
	Services []string `yaml:"services"` // all when empty; entries about no service always pass

	Timeout  time.Duration `yaml:"timeout"`   // of one attempt; default 10s
	RetryMax time.Duration `yaml:"retry_max"` // longest wait between attempts; default 1m
}

// Webhook is an HTTP endpoint; no URL, no webhook.
type Webhook struct {
	URL     string            `yaml:"url"`
	CA      string            `yaml:"ca"`      // file of certificates to trust; default: the system's
	Headers map[string]string `yaml:"headers"` // added to each request
}

// Exec is a program; no command, no program.
type Exec struct {
	Command []string `yaml:"command"` // program and arguments, no shell
}

// SetDefaults fills what was left out.
func (c Config) SetDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second // a chat or paging service answers in a few
	}
	if c.RetryMax == 0 {
		c.RetryMax = time.Minute
	}
	return c
}

// Validate reports every broken rule. known are the actions that exist.
func (c Config) Validate(known []string) error {
	errs := []error{
		config.Name("name", c.Name), config.AtLeast("timeout", c.Timeout, 100*time.Millisecond), config.AtLeast("retry_max", c.RetryMax, time.Second),
	}
	hook, program := c.Webhook.URL != "", len(c.Exec.Command) > 0
	if hook == program {
		errs = append(errs, config.Broken("webhook", "want either webhook.url or exec.command", c.Webhook.URL))
	}
	if hook {
		if u, err := url.Parse(c.Webhook.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, config.Broken("webhook.url", "want http://host/path or https://...", c.Webhook.URL))
		}
	}
	if program {
		errs = append(errs, config.AbsPath("exec.command[0]", c.Exec.Command[0]))
	}
	for i, a := range c.Actions {
		if !slices.Contains(known, a) {
			errs = append(errs, config.Broken(fmt.Sprintf("actions[%d]", i), "want an action of the audit trail", a))
		}
	}
	for i, s := range c.Services {
		if tidegate.ValidName(s) != nil {
			errs = append(errs, config.Broken(fmt.Sprintf("services[%d]", i), "want the name of a service", s))
		}
	}
	return errors.Join(errs...)
}

// Wants reports whether the receiver is to be told of an action on a service.
func (c Config) Wants(action, service string) bool {
	return (len(c.Actions) == 0 || slices.Contains(c.Actions, action)) &&
		(len(c.Services) == 0 || service == "" || slices.Contains(c.Services, service))
}
