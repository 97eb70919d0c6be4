package main

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/local"
)

// devView is what `tidegate dev` prints once everything serves.
type devView struct {
	Dir      string        `json:"dir"`
	Operator string        `json:"operator"` // file for the operator's commands
	Gate     string        `json:"gate"`     // host:port of the API
	Clients  []string      `json:"clients"`  // host:port that clients of the service use: the route
	Service  string        `json:"service"`
	Nodes    []devNodeView `json:"nodes"` // the primary node first
	Logs     string        `json:"logs"`
}

// devNodeView is one node, for whoever runs a service on it.
type devNodeView struct {
	Node     string          `json:"node"`
	Site     string          `json:"site"`
	Run      string          `json:"run"`      // directory of the daemons' sockets
	Data     string          `json:"data"`     // where the service keeps its files
	Endpoint string          `json:"endpoint"` // host:port where the service should answer
	Agent    string          `json:"agent"`    // host:port of /status and /metrics
	Ship     string          `json:"ship"`
	API      string          `json:"api"`
	Streams  []devStreamView `json:"streams"`

	raft string
}

// devStreamView is what the journal's configuration takes.
type devStreamView struct {
	Stream        string `json:"stream"`
	Journal       string `json:"journal"` // directory
	AgentSocket   string `json:"agent_socket"`
	StandbySocket string `json:"standby_socket"`
}

func (s *devSite) view() devView {
	v := devView{
		Dir: s.plan.Dir, Operator: s.operatorFile(), Gate: s.gate.Gate.Listen, Service: s.plan.Service,
		Logs: s.path("logs"),
	}
	for _, svc := range s.route.Route.Services {
		v.Clients = append(v.Clients, svc.Listen...)
	}
	nodes := s.plan.nodes()
	for i, a := range s.agents {
		n := nodeView(a)
		n.Data, n.raft = s.path(n.Node, s.plan.Service), devAddr(nodes[i].ports, portRaft)
		f := s.standbys[i]
		n.Ship, n.API = f.Ship.Public, f.API.Public
		for k, st := range n.Streams {
			n.Streams[k].StandbySocket = local.SocketPath(f.RunDir, local.DaemonStandby, tidegate.ServiceName(s.plan.Service), tidegate.StreamName(st.Stream))
		}
		v.Nodes = append(v.Nodes, n)
	}
	return v
}

func nodeView(a agent.Config) devNodeView {
	n := devNodeView{Node: string(a.Node.Name), Site: string(a.Node.Site), Run: a.RunDir, Agent: a.Listen}
	for _, st := range a.Streams {
		n.Endpoint = st.Endpoint
		n.Streams = append(n.Streams, devStreamView{
			Stream: string(st.Stream), Journal: st.JournalDir,
			AgentSocket: local.SocketPath(a.RunDir, local.DaemonAgent, st.Service, st.Stream),
		})
	}
	return n
}

// show prints where everything is.
func (s *devSite) show(c *ucli.Context) error {
	v := s.view()
	return cli.Print(c, v, func(w io.Writer) error { return v.write(w) })
}

func (v devView) write(w io.Writer) error {
	fmt.Fprintf(w, "service %s: gate %s, clients %s\n", v.Service, v.Gate, strings.Join(v.Clients, " "))
	config := shellWord(v.Operator)
	fmt.Fprintf(w, "\nask it:\n  tidegate status --config %s\n  tidegate failover %s --dry-run --config %s\n", config, v.Service, config)
	fmt.Fprint(w, "\nnodes:\n")
	table := cli.NewTable("node", "site", "service", "agent", "ship", "api", "run", "data")
	for _, n := range v.Nodes {
		table.Row(n.Node, n.Site, n.Endpoint, n.Agent, n.Ship, n.API, v.short(n.Run), v.short(n.Data))
	}
	if _, err := table.WriteTo(w); err != nil {
		return err
	}
	if v.ledger() {
		fmt.Fprint(w, "\nstart the ledger:\n")
		for _, n := range v.Nodes {
			fmt.Fprintln(w, " ", n.ledgerCommand(v.Service))
		}
	} else {
		fmt.Fprint(w, "\nconfigure the journal library with:\n")
		if err := v.writeStreams(w); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\npaths are below %s, logs in %s; interrupt to stop\n", v.Dir, v.short(v.Logs))
	return err
}

func (v devView) writeStreams(w io.Writer) error {
	table := cli.NewTable("node", "stream", "journal", "agent socket", "standby socket")
	for _, n := range v.Nodes {
		for _, s := range n.Streams {
			table.Row(n.Node, s.Stream, v.short(s.Journal), v.short(s.AgentSocket), v.short(s.StandbySocket))
		}
	}
	_, err := table.WriteTo(w)
	return err
}

// short is path as seen from the directory.
func (v devView) short(path string) string {
	if rel, err := filepath.Rel(v.Dir, path); path != "" && err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// ledger reports whether the streams are those of examples/ledger, which is
// the service one has at hand.
func (v devView) ledger() bool {
	var names []string
	for _, s := range v.Nodes[0].Streams {
		names = append(names, s.Stream)
	}
	slices.Sort(names)
	return slices.Equal(names, []string{"eur", "usd"})
}

// ledgerCommand starts the ledger on n: at the primary site as a cluster of one,
// elsewhere following.
func (n devNodeView) ledgerCommand(service string) string {
	args := []string{"ledger", "node"}
	follows := n.Site != devPrimary
	if follows {
		args[1] = "follow"
	}
	args = append(args, "--name", n.Node, "--service", service, "--data", n.Data, "--http", n.Endpoint, "--run", n.Run)
	if follows {
		args = append(args, "--raft", n.raft)
	} else {
		args = append(args, "--return", "--peer", fmt.Sprintf("%s=%s,%s", n.Node, n.raft, n.Endpoint))
	}
	for i, a := range args {
		args[i] = shellWord(a)
	}
	return strings.Join(args, " ")
}

// shellWord is s as one word of a POSIX shell.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/.,:=@%+_-", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
