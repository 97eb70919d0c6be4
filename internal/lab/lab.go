package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	ledgerapi "github.com/tidegate/tidegate/examples/ledger/api"
)

// Lab is a whole Tidegate on this machine.
type Lab struct {
	plant     Plant
	gateAddrs []string
	routeAddr string
	primaries []machine
	standbys  []machine
	procs     []*Proc
	net       *network // nil: everything on the loopback interface
}

// New lays out a lab in p.Dir and starts nothing. The directory must be new or
// empty: a lab never runs over what another one left.
func New(p Plant) (*Lab, error) {
	l := &Lab{plant: p.withDefaults()}
	if err := os.MkdirAll(l.plant.Dir, 0o750); err != nil {
		return nil, err
	}
	if left, err := os.ReadDir(l.plant.Dir); err != nil || len(left) > 0 {
		return nil, errors.Join(err, fmt.Errorf("lay out lab %s: want an empty directory", l.plant.Dir))
	}
	if err := l.lay(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// lay gives every machine and gate its addresses and folders.
func (l *Lab) lay() error {
	n := l.plant.Primaries + l.plant.Standbys
	gates := l.plant.Gates
	addrs, err := ports(gates + 1 + 5*n)
	if err != nil {
		return err
	}
	if l.plant.Networks {
		if l.net, err = newNetwork(); err != nil {
			return err
		}
	}
	for i := range gates {
		addrs[i] = l.at(l.gateSite(i), addrs[i])
	}
	addrs[gates] = l.at(SiteWitness, addrs[gates])
	l.gateAddrs, l.routeAddr, addrs = addrs[:gates:gates], addrs[gates], addrs[gates+1:]
	for i := range n {
		m := machine{site: SitePrimary, name: fmt.Sprintf("p%d", i+1)}
		if i >= l.plant.Primaries {
			m.site, m.name = SiteDR, fmt.Sprintf("d%d", i-l.plant.Primaries+1)
		}
		a := addrs[5*i : 5*i+5]
		for k := range a {
			a[k] = l.at(m.site, a[k])
		}
		m.ship, m.api, m.agent, m.http, m.raft = a[0], a[1], a[2], a[3], a[4]
		if l.net != nil {
			_, port, _ := net.SplitHostPort(m.agent)
			m.agent = net.JoinHostPort(l.net.loopback(m.site), port)
		}
		m.dir = l.path(m.name)
		if err := os.MkdirAll(m.run(), 0o750); err != nil {
			return err
		}
		if m.site == SitePrimary {
			l.primaries = append(l.primaries, m)
		} else {
			l.standbys = append(l.standbys, m)
		}
	}
	return nil
}

// at moves an address to a site's network, if it has one.
func (l *Lab) at(site, addr string) string {
	if l.net == nil {
		return addr
	}
	_, port, _ := net.SplitHostPort(addr) // as ports made it
	return net.JoinHostPort(l.net.host(site), port)
}

func (l *Lab) path(elem ...string) string {
	return filepath.Join(append([]string{l.plant.Dir}, elem...)...)
}

func (l *Lab) pki() string          { return l.path("pki") }
func (l *Lab) operatorFile() string { return l.path("operator.yaml") }
func (l *Lab) bin(name string) string {
	return filepath.Join(l.plant.Bin, name)
}

// Gate returns the address of the first gate's API.
func (l *Lab) Gate() string { return l.gateAddrs[0] }

// GateDir returns the data directory of a gate, counted from 0.
func (l *Lab) GateDir(i int) string { return l.path(gateName(i)) }

// File returns the path of a configuration file or another file of the lab:
// gate.yaml, operator.yaml, d1/standby.yaml.
func (l *Lab) File(elem ...string) string { return l.path(elem...) }

// StandbyDir returns the data directory of a machine's standby node. It does
// not exist before Up, so that a caller may mount something there.
func (l *Lab) StandbyDir(name string) string { return l.machine(name).file("standby") }

// ShipAddr returns the address at which a machine's standby node takes ship sessions.
func (l *Lab) ShipAddr(name string) string { return l.machine(name).ship }

// APIAddr returns the address of a machine's standby API.
func (l *Lab) APIAddr(name string) string { return l.machine(name).api }

// Route returns the URL of the clients' address.
func (l *Lab) Route() string { return "http://" + l.routeAddr }

// Primaries returns the names of the primary site's machines.
func (l *Lab) Primaries() []string { return names(l.primaries) }

// Standbys returns the names of the DR site's machines.
func (l *Lab) Standbys() []string { return names(l.standbys) }

func names(machines []machine) []string {
	var out []string
	for _, m := range machines {
		out = append(out, m.name)
	}
	return out
}

// RunDir returns the directory of a machine's sockets.
func (l *Lab) RunDir(name string) string { return l.machine(name).run() }

// Journal returns the directory of a stream's journal on a machine.
func (l *Lab) Journal(name, stream string) string { return l.machine(name).journal(stream) }

// HTTP returns the URL of a machine's ledger.
func (l *Lab) HTTP(name string) string { return "http://" + l.machine(name).http }

// AgentURL returns the URL of a machine's agent: /status and /metrics.
func (l *Lab) AgentURL(name string) string { return "http://" + l.machine(name).agent }

// Quarantine returns the directory of an agent's quarantine.
func (l *Lab) Quarantine(name string) string { return l.machine(name).file("agent/quarantine") }

func (l *Lab) machine(name string) machine {
	for _, m := range slices.Concat(l.primaries, l.standbys) {
		if m.name == name {
			return m
		}
	}
	panic("lab has no machine " + name)
}

// Proc returns a process by its name: gate, gate-2, route, agent-p1, ledger-p1,
// standby-d1, agent-d1, ledger-d1; standby-p1 of a plant with Returns.
func (l *Lab) Proc(name string) *Proc {
	for _, p := range l.procs {
		if p.Name == name {
			return p
		}
	}
	panic("lab has no process " + name)
}

// Procs returns the processes of a site in the order they were started, or all of them.
func (l *Lab) Procs(site string) []*Proc {
	var out []*Proc
	for _, p := range l.procs {
		if site == "" || p.Site == site {
			out = append(out, p)
		}
	}
	return out
}

// Up makes certificates and configuration, starts everything and waits until
// it serves: a test of the whole, not of the parts. say is told what goes on.
func (l *Lab) Up(ctx context.Context, say func(string)) error {
	say("certificates and configuration")
	args := []string{
		"dev", "pki", "--dir", l.pki(), "--cluster", cluster,
		"--identity", SiteWitness + "/operator/ada", "--identity", SiteWitness + "/route/route-1",
	}
	for i := range l.gateAddrs {
		args = append(args, "--identity", fmt.Sprintf("%s/gate/gate-%d", l.gateSite(i), i+1))
	}
	for _, m := range slices.Concat(l.primaries, l.standbys) {
		args = append(args, "--node", m.site+"/"+m.name)
	}
	if _, err := l.Command(ctx, l.bin("tidegate"), args...); err != nil {
		return err
	}
	if err := l.writeFiles(); err != nil {
		return err
	}
	say(fmt.Sprintf("%d gate", len(l.gateAddrs)))
	for i := range l.gateAddrs {
		name := gateName(i)
		if err := l.start(name, l.gateSite(i), l.bin("tidegate"), "gate", "run", "--config", l.path(name+".yaml")); err != nil {
			return err
		}
	}
	if err := l.Until(ctx, "the gate", func(ctx context.Context) error {
		_, err := l.Tidegate(ctx, "streams", "list")
		return err
	}); err != nil {
		return err
	}
	say(fmt.Sprintf("%d standby nodes", len(l.keepers())))
	if err := l.startStandbys(ctx); err != nil {
		return err
	}
	if err := l.addService(ctx); err != nil {
		return err
	}
	say(fmt.Sprintf("%d agents", len(l.writers())))
	for _, m := range l.writers() {
		if err := l.start("agent-"+m.name, m.site, l.bin("tidegate-agent"), "run", "--config", m.file("agent.yaml")); err != nil {
			return err
		}
	}
	if l.plant.NoService {
		return nil
	}
	say(fmt.Sprintf("%d ledger nodes under raft, %d following, one route", len(l.primaries), len(l.standbys)))
	if err := l.startService(); err != nil {
		return err
	}
	return l.Serving(ctx)
}

// writers are the machines that run an agent.
func (l *Lab) writers() []machine { return slices.Concat(l.primaries, l.standbys[:l.plant.Agents]) }

// keepers are the machines that run a standby daemon.
func (l *Lab) keepers() []machine {
	if l.plant.Returns {
		return slices.Concat(l.standbys, l.primaries)
	}
	return l.standbys
}

func (l *Lab) startStandbys(ctx context.Context) error {
	for _, m := range l.keepers() {
		if _, err := l.Command(ctx, l.bin("tidegate"), "standby", "format", "--config", m.file("standby.yaml")); err != nil {
			return err
		}
		if err := l.start("standby-"+m.name, m.site, l.bin("tidegate"), "standby", "run", "--config", m.file("standby.yaml")); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) addService(ctx context.Context) error {
	if _, err := l.Tidegate(ctx, "services", "add", "--rpo", "5s", "--rto", "30s", "--route", "route-1", Service); err != nil {
		return err
	}
	for _, s := range l.plant.Streams {
		args := []string{"streams", "add", "--store", l.plant.Store, "--mode", string(l.plant.Mode), "--w", fmt.Sprint(l.plant.W)}
		if l.plant.Mode == tidegate.ModeBounded {
			b := l.plant.Bounds
			args = append(args, "--records", fmt.Sprint(b.Records), "--bytes", fmt.Sprint(b.Bytes), "--window", b.Window.String())
		}
		for _, m := range l.keepers() {
			args = append(args, "--member", m.name)
		}
		// The nodes register when they first reach the gate, which takes them a moment.
		if err := l.Until(ctx, "standby nodes to register", func(ctx context.Context) error {
			_, err := l.Tidegate(ctx, append(args, Service+"/"+s)...)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) startService() error {
	var peers []string
	for _, m := range l.primaries {
		peers = append(peers, "--peer", fmt.Sprintf("%s=%s,%s", m.name, m.raft, m.http))
	}
	common := func(m machine) []string {
		return []string{"--name", m.name, "--data", m.file("ledger"), "--http", m.http, "--service", Service, "--run", m.run()}
	}
	for _, m := range l.primaries {
		args := append(append([]string{l.bin("ledger"), "node"}, common(m)...), peers...)
		if l.plant.Returns {
			args = append(args, "--return")
		}
		if err := l.start("ledger-"+m.name, m.site, args...); err != nil {
			return err
		}
	}
	for _, m := range l.standbys {
		args := append(append([]string{l.bin("ledger"), "follow"}, common(m)...), "--raft", m.raft)
		if err := l.start("ledger-"+m.name, m.site, args...); err != nil {
			return err
		}
	}
	return l.start("route", SiteWitness, l.bin("tidegate"), "route", "--config", l.path("route.yaml"))
}

// firstID is the client id of a lab's first write.
const firstID = "8888888888888888888888888888888f"

// Serving waits until the service answers through the route.
func (l *Lab) Serving(ctx context.Context) error {
	return l.Until(ctx, "the service to take writes through the route", func(ctx context.Context) error {
		var s ledgerapi.Status
		if err := GetJSON(ctx, l.Route()+ledgerapi.PathStatus, &s); err != nil {
			return err
		}
		for _, c := range Currencies {
			// The same request again is answered from memory, so this may be repeated.
			body := fmt.Sprintf(`{"client":"%s","request":1,"currency":"%s","to":"lab"}`, firstID, c)
			if err := post(ctx, l.Route()+ledgerapi.PathAccounts, body); err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *Lab) start(name, site string, args ...string) error {
	if l.net != nil {
		args = l.net.within(site, args)
	}
	p := &Proc{Name: name, Site: site, Args: args, logPath: l.path("logs", name+".log")}
	if err := os.MkdirAll(l.path("logs"), 0o750); err != nil {
		return err
	}
	l.procs = append(l.procs, p)
	return p.Start()
}

// StartProc adds a process of the caller's to the lab and starts it.
func (l *Lab) StartProc(name, site string, args ...string) error { return l.start(name, site, args...) }

// Bin returns the path of one of the lab's binaries.
func (l *Lab) Bin(name string) string { return l.bin(name) }

// Died returns the first process that ended by itself, with the end of its log.
func (l *Lab) Died() error {
	for _, p := range l.procs {
		if err := p.Died(); err != nil {
			return fmt.Errorf("%w\n%s", err, tail(p.logPath, 12))
		}
	}
	return nil
}

// Close kills everything that runs and takes its network down. The directory stays.
func (l *Lab) Close() {
	var g errgroup.Group
	for _, p := range l.procs {
		g.Go(func() error { p.Kill(); return nil })
	}
	_ = g.Wait() // kills report nothing
	if l.net != nil {
		// A namespace that is left behind harms nobody but the next lab's slot.
		if err := l.net.close(); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
		}
		l.net = nil
	}
}

// Tidegate runs an operator's command against the lab's gate and returns its
// standard output. A command that fails is an error with its exit code.
func (l *Lab) Tidegate(ctx context.Context, args ...string) ([]byte, error) {
	// The file's flag belongs behind the sub-command's name, before its arguments.
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") })
	if i < 0 {
		i = len(verbs(args))
	}
	full := slices.Concat(args[:i], []string{"--config", l.operatorFile()}, args[i:])
	return l.Command(ctx, l.bin("tidegate"), full...)
}

// verbs returns the leading words of args that name a command.
func verbs(args []string) []string {
	switch args[0] {
	case "streams", "services", "gate", "plan", "gap", "drill":
		return args[:min(2, len(args))]
	}
	return args[:1]
}

// ExitError is a command that ended with another code than 0.
type ExitError struct {
	Command string
	Code    int
	Stderr  string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", e.Command, e.Code, strings.TrimSpace(e.Stderr))
}

// Command runs a program to its end and returns its standard output.
func (l *Lab) Command(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.Bytes(), &ExitError{Command: filepath.Base(name) + " " + strings.Join(args, " "), Code: exit.ExitCode(), Stderr: errs.String() + out.String()}
	}
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// GetJSON fetches a URL and decodes its body, within two seconds.
func GetJSON(ctx context.Context, url string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	return do(req, v)
}

func post(ctx context.Context, url, body string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return do(req, nil)
}

func do(req *http.Request, v any) error {
	res, err := reached.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		var b bytes.Buffer
		_, _ = b.ReadFrom(res.Body) // the status alone says enough
		return fmt.Errorf("%s %s: %s: %s", req.Method, req.URL, res.Status, strings.TrimSpace(b.String()))
	}
	if v == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(v)
}

// tail returns the last n lines of a file.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
