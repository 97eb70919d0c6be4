package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/pki"
)

// operatorFile is the file of the operator's commands.
type operatorFile struct {
	Gates []string   `yaml:"gates"` // host:port of the gates' API, tried in turn
	TLS   config.TLS `yaml:"tls"`   // with an operator's or a viewer's certificate
}

// defaultOperatorFile is what the package installs a sample of.
const defaultOperatorFile = "/etc/tidegate/operator.yaml"

// SetDefaults has nothing to fill in: there is no gate to guess.
func (f operatorFile) SetDefaults() operatorFile { return f }

// Validate reports every broken rule.
func (f operatorFile) Validate() error {
	return errors.Join(config.Under("tls", f.TLS.Validate()), gatesRule(f.Gates))
}

// operatorFlags are those of every command that talks to a gate.
func operatorFlags(more ...ucli.Flag) []ucli.Flag {
	return append([]ucli.Flag{
		&ucli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: defaultOperatorFile, Usage: "operator's `FILE`: gates and certificate"},
	}, more...)
}

// operator talks to the first gate that answers.
type operator struct {
	gates []string
	http  *http.Client
}

// newOperator reads the file that was named, also before the sub-command's name:
// `gate -c x rebuild` must not talk to the gates of the default file.
func newOperator(c *ucli.Context) (*operator, error) { return loadOperator(roleFile(c)) }

// loadOperator reads the file and the certificate, and dials nobody yet.
func loadOperator(path string) (*operator, error) {
	file, err := config.Load[operatorFile](path)
	if err != nil {
		return nil, err
	}
	creds, err := pki.Load(file.TLS.Cert, file.TLS.Key, file.TLS.CA)
	if err != nil {
		return nil, err
	}
	return &operator{gates: file.Gates, http: api.NewHTTPClient(creds.ClientTLS(pki.Expect{Role: tidegate.RoleGate}))}, nil
}

// do calls one gate after the other until one answers, whatever the answer is.
// call must be safe to repeat when nothing answered.
func (o *operator) do(ctx context.Context, op, subject string, call func(tidegatev1connect.OperatorServiceClient) error) error {
	var unreachable []error
	for _, gate := range o.gates {
		err := call(tidegatev1connect.NewOperatorServiceClient(o.http, "https://"+gate))
		if err == nil {
			return nil
		}
		err = cli.Remote(op, subject, err)
		if cli.CodeOf(err) != cli.Unreachable || ctx.Err() != nil {
			return err
		}
		unreachable = append(unreachable, fmt.Errorf("gate %s: %w", gate, err))
	}
	return noGate(op, subject, unreachable)
}

func noGate(op, subject string, unreachable []error) error {
	return &tidegate.Error{
		Op: op, Subject: subject, Class: tidegate.Transient, Err: errors.Join(unreachable...),
		Hint: "streams flow on and gates hold without it; check that a gate runs and can be reached",
	}
}

func gatesRule(gates []string) error {
	if len(gates) == 0 {
		return config.Broken("gates", "want at least one host:port", gates)
	}
	var all []error
	for i, g := range gates {
		all = append(all, config.Reachable(fmt.Sprintf("gates[%d]", i), g))
	}
	return errors.Join(all...)
}
