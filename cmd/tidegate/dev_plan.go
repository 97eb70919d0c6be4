package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// devPlan is what a directory of `tidegate dev` was made with; dev.yaml.
type devPlan struct {
	Dir      string     `yaml:"dir"` // absolute: the role files hold paths in it
	PortBase int        `yaml:"port_base"`
	Service  string     `yaml:"service"`
	Streams  []string   `yaml:"streams"`
	Gate     modeChoice `yaml:"gate"`
	// Policy is what the gate does at its edge, as the operator's word for it.
	Policy   string        `yaml:"policy"`
	Lease    time.Duration `yaml:"lease,omitempty"` // of outputs while the gate does not hold them; 0: none
	Standbys int           `yaml:"standbys"`        // at the DR site; the primary node has one more, for the way back
	W        int           `yaml:"w"`
}

// The cluster of `tidegate dev` and its sites.
const (
	devCluster = "dev"
	devPrimary = "east"
	devDR      = "west"
	devWitness = "north"
)

// devPolicy is the policy unless another is asked for.
const devPolicy = "block"

// devStandbysMax and devPorts: ten ports for p1 and for each standby node, so
// that the last digit says whose port it is.
const (
	devStandbysMax = 9
	devPorts       = 10 * (1 + devStandbysMax)
)

// devPlanOf reads the flags.
func devPlanOf(c *ucli.Context) (devPlan, error) {
	if c.String("dir") == "" {
		return devPlan{}, cli.Usagef("dev: want --dir")
	}
	dir, err := filepath.Abs(c.String("dir"))
	if err != nil {
		return devPlan{}, err
	}
	if o := c.String("output"); o != "text" && o != "json" {
		return devPlan{}, cli.Usagef("unknown output format %q: want text or json", o)
	}
	choice, err := modeChoiceOf(c)
	if err != nil {
		return devPlan{}, err
	}
	p := devPlan{
		Dir: dir, PortBase: c.Int("port-base"), Service: c.String("service"), Streams: c.StringSlice("stream"),
		Gate: choice, Policy: c.String("policy"), Lease: c.Duration("lease"), Standbys: c.Int("standbys"), W: c.Int("w"),
	}
	if !c.IsSet("w") {
		p.W = p.Standbys/2 + 1
	}
	return p, cli.WithCode(cli.Usage, p.Validate())
}

// SetDefaults fills in what a directory of an older build does not say.
func (p devPlan) SetDefaults() devPlan {
	if p.Policy == "" {
		p.Policy = devPolicy
	}
	return p
}

// Validate reports every broken rule.
func (p devPlan) Validate() error {
	errs := []error{config.AbsPath("dir", p.Dir), config.Name("service", p.Service)}
	bad := func(path, rule string, got any) { errs = append(errs, config.Broken(path, rule, got)) }
	if most := 1<<16 - devPorts; p.PortBase < 1024 || p.PortBase > most {
		bad("port_base", fmt.Sprintf("want 1024 to %d", most), p.PortBase)
	}
	if len(p.Streams) == 0 {
		bad("streams", "want at least one", p.Streams)
	}
	for i, s := range p.Streams {
		errs = append(errs, config.Name(fmt.Sprintf("streams[%d]", i), s))
		if slices.Contains(p.Streams[:i], s) {
			bad(fmt.Sprintf("streams[%d]", i), "want each stream once", s)
		}
	}
	if p.Standbys < 1 || p.Standbys > devStandbysMax {
		bad("standbys", fmt.Sprintf("want 1 to %d", devStandbysMax), p.Standbys)
	}
	if (tidegate.Quorum{N: p.Standbys, W: p.W}).Validate() != nil {
		bad("w", "want at least 1 and at most as many as standbys", p.W)
	}
	if _, _, err := p.Gate.message(); err != nil {
		bad("gate", err.Error(), p.Gate.Mode)
	}
	if _, words, ok := enumValue(pb.GatePolicy(0), p.Policy); !ok {
		bad("policy", "want one of "+strings.Join(words, ", "), p.Policy)
	}
	if p.Lease < 0 || p.Lease > fence.LeaseTTLMax {
		bad("lease", fmt.Sprintf("want 0 to %s", fence.LeaseTTLMax), p.Lease)
	}
	return errors.Join(errs...)
}

// keep returns the plan that p.Dir was made with, or writes p down as that. A
// flag that was given and says otherwise is refused: half of the directory
// would go on with the old value.
func (p devPlan) keep(c *ucli.Context, fsys vfs.FS) (devPlan, error) {
	path := filepath.Join(p.Dir, "dev.yaml")
	_, err := fsys.Stat(path)
	if errors.Is(err, tidegate.ErrNotFound) {
		text, err := yaml.Marshal(p)
		if err != nil {
			return devPlan{}, err
		}
		head := "# What `tidegate dev` made this directory with. The roles read their own files.\n"
		return p, durable.WriteFile(fsys, path, append([]byte(head), text...))
	}
	if err != nil {
		return devPlan{}, err
	}
	kept, err := config.Load[devPlan](path)
	if err != nil {
		return devPlan{}, err
	}
	if kept.Dir != p.Dir {
		return devPlan{}, &tidegate.Error{
			Op: "dev", Subject: p.Dir, Class: tidegate.Misuse, Err: fmt.Errorf("was made as %s, and its files say so", kept.Dir),
			Hint: "move it back, or begin with a new directory",
		}
	}
	was, is := kept.flags(), p.flags()
	for _, name := range []string{"port-base", "service", "stream", "standbys", "w", "mode", "records", "bytes", "window", "policy", "lease"} {
		if c.IsSet(name) && is[name] != was[name] {
			return devPlan{}, &tidegate.Error{
				Op: "dev", Subject: p.Dir, Class: tidegate.Misuse, Err: fmt.Errorf("was made with --%s %s, not %s", name, was[name], is[name]),
				Hint: "leave the flag out, or begin with a new directory; `tidegate gate set` changes mode and bounds",
			}
		}
	}
	return kept, nil
}

// flags is the plan as somebody would give it.
func (p devPlan) flags() map[string]string {
	m := map[string]string{
		"port-base": strconv.Itoa(p.PortBase), "service": p.Service, "stream": strings.Join(p.Streams, ","),
		"standbys": strconv.Itoa(p.Standbys), "w": strconv.Itoa(p.W), "mode": p.Gate.Mode,
		"records": "none", "bytes": "none", "window": "none", "policy": p.Policy, "lease": p.Lease.String(),
	}
	if r := p.Gate.Records; r != nil {
		m["records"] = strconv.FormatInt(*r, 10)
	}
	if b := p.Gate.Bytes; b != nil {
		m["bytes"] = b.String()
	}
	if w := p.Gate.Window; w != nil {
		m["window"] = w.String()
	}
	return m
}

// devNode is one machine: its daemons share directories as they would on a
// machine of their own.
type devNode struct {
	name  string
	site  string
	ports int // of ten
}

// nodes are p1 and the nodes of the DR site. All have an agent and a standby
// daemon: each of them may be active, and follow.
func (p devPlan) nodes() []devNode {
	nodes := []devNode{{name: "p1", site: devPrimary, ports: p.PortBase}}
	for i := 1; i <= p.Standbys; i++ {
		nodes = append(nodes, devNode{name: fmt.Sprintf("d%d", i), site: devDR, ports: p.PortBase + 10*i})
	}
	return nodes
}

// Whose a port is, by its last digit, as in the defaults of the roles' files.
const (
	portShip    = 1
	portGate    = 2
	portAgent   = 3
	portAPI     = 4
	portMetrics = 5
	portClients = 6
	portHTTP    = 8
	portRaft    = 9
)

func devAddr(base, port int) string { return fmt.Sprintf("127.0.0.1:%d", base+port) }

// gateAddr is the gate's API; gate and route have the ten ports of d1 with it.
func (p devPlan) gateAddr() string { return devAddr(p.PortBase+10, portGate) }
