package lab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidegate/tidegate"
)

// Service is the name of the one service of a lab; Currencies are its streams.
const Service = "ledger"

// Currencies are the streams of the service.
var Currencies = []string{"eur", "usd"}

// The sites of a lab.
const (
	SitePrimary = "east"
	SiteDR      = "west"
	SiteWitness = "north"
)

// cluster names the lab's cluster in certificates.
const cluster = "lab"

// Plant says what stands in a lab.
type Plant struct {
	Dir       string          // working directory, created; socket paths are limited to 107 bytes
	Bin       string          // directory of the binaries tidegate, tidegate-agent and ledger
	Primaries int             // nodes of the primary site; default 3
	Standbys  int             // nodes of the DR site; default 3
	W         int             // ack quorum; default a majority of Standbys
	Mode      tidegate.Mode   // default sync
	Bounds    tidegate.Bounds // of bounded
	NoService bool            // agents and standby nodes only: the caller is the service
	Streams   []string        // default Currencies
	Store     string          // of the streams; default journal. Another store's settings are Tune's to write
	Agents    int             // nodes of the DR site that run an agent: where a service can become active; default all
	Gates     int             // default 1
	Returns   bool            // the primary site's machines run a standby daemon, too, and are members for the way back
	Spread    bool            // one gate at each site in turn, the witness first; else all at the witness
	Networks  bool            // each site in a network namespace of its own, for Cut and Mend; needs root
	Etcd      []string        // endpoints of an etcd that the caller runs; required for more than one gate
	// Probe, unless nil, is the gates' synthetic client for the service behind the
	// route's address; by default it is the example's, or none with NoService.
	Probe func(route string) map[string]any
	// Tune, unless nil, may change a configuration file before it is written. name
	// is the file's path below Dir: gate.yaml, d1/standby.yaml.
	Tune func(name string, file map[string]any)
}

func (p Plant) withDefaults() Plant {
	if p.Primaries == 0 {
		p.Primaries = 3
	}
	if p.Standbys == 0 {
		p.Standbys = 3
	}
	if p.Gates == 0 {
		p.Gates = 1
	}
	if p.W == 0 {
		p.W = p.Standbys/2 + 1
	}
	if p.Mode == "" {
		p.Mode = tidegate.ModeSync
	}
	if p.Streams == nil {
		p.Streams = Currencies
	}
	if p.Store == "" {
		p.Store = "journal"
	}
	if p.Agents == 0 {
		p.Agents = p.Standbys
	}
	return p
}

// proberID is the client id of the gate's synthetic writes.
const proberID = "9999999999999999999999999999999f"

// machine is one host of a lab: its daemons share directories as they would on
// a machine of their own.
type machine struct {
	name string
	site string
	dir  string

	ship, api, agent, http, raft string // addresses
}

func (m machine) run() string             { return filepath.Join(m.dir, "run") }
func (m machine) file(name string) string { return filepath.Join(m.dir, name) }
func (m machine) journal(stream string) string {
	return filepath.Join(m.dir, "ledger", "journal", stream)
}

// The kernel hands ephemeral ports to clients. A process that is killed and
// started again must find its port free, so the lab stays below them, and above
// the ports of well-known services.
const (
	portsFrom      = 10000
	ephemeralFile  = "/proc/sys/net/ipv4/ip_local_port_range"
	ephemeralFirst = 32768 // where the file says nothing
)

// ports hands out addresses on the loopback interface that nobody listens on.
// All are taken at the same time, so that none is handed out twice.
func ports(n int) ([]string, error) {
	first := ephemeralFirst
	if b, err := os.ReadFile(ephemeralFile); err == nil {
		_, _ = fmt.Sscan(string(b), &first) // keeps the default when it does not parse
	}
	if first < portsFrom+100*n {
		return nil, fmt.Errorf("find %d free ports: ephemeral ports begin at %d already (%s), want %d", n, first, ephemeralFile, portsFrom+100*n)
	}
	var addrs []string
	for range 50 * n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", portsFrom+rand.IntN(first-portsFrom)))
		if err != nil {
			continue // somebody else's
		}
		defer l.Close() //nolint:errcheck // nothing was accepted
		if addrs = append(addrs, l.Addr().String()); len(addrs) == n {
			return addrs, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports between %d and %d: only %d are free", n, portsFrom, first, len(addrs))
}

// FreeAddr returns one more address that a caller's process may listen on, and
// listen on again after a restart.
func FreeAddr() (string, error) {
	addrs, err := ports(1)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

type tree = map[string]any

func (l *Lab) tls(site, role, name string) tree {
	at := func(ext string) string {
		return filepath.Join(l.pki(), fmt.Sprintf("%s-%s-%s.%s", site, role, name, ext))
	}
	return tree{"ca": filepath.Join(l.pki(), "ca.crt"), "cert": at("crt"), "key": at("key")}
}

func node(site, name string) tree { return tree{"cluster": cluster, "site": site, "name": name} }

func (l *Lab) writeFiles() error {
	files := map[string]tree{
		l.operatorFile(): {"gates": l.gateAddrs, "tls": l.tls(SiteWitness, "operator", "ada")},
		l.path("route.yaml"): {
			"node": node(SiteWitness, "route-1"), "tls": l.tls(SiteWitness, "route", "route-1"),
			"route": tree{
				"gates": l.gateAddrs, "dir": l.path("route"), "report_period": "200ms", "dial_timeout": "300ms",
				"services": []tree{{"name": Service, "listen": []string{l.routeAddr}}},
			},
		},
	}
	for i, addr := range l.gateAddrs {
		name := fmt.Sprintf("gate-%d", i+1)
		files[l.path(gateName(i)+".yaml")] = tree{
			"node": node(l.gateSite(i), name), "tls": l.tls(l.gateSite(i), "gate", name),
			"gate": l.gateTree(addr, l.GateDir(i)),
		}
	}
	for _, m := range l.keepers() {
		files[m.file("standby.yaml")] = tree{
			"node": node(m.site, m.name), "tls": l.tls(m.site, "standby", m.name), "gates": l.gateAddrs,
			"data_dir": m.file("standby"), "run_dir": m.run(), "rates_dir": m.file("rates"),
			"ship": tree{"listen": m.ship, "public": m.ship}, "api": tree{"listen": m.api, "public": m.api},
		}
	}
	for _, m := range l.writers() {
		var streams []tree
		for _, s := range l.plant.Streams {
			streams = append(streams, tree{"service": Service, "stream": s, "source": "journal", "journal_dir": m.journal(s), "endpoint": m.http})
		}
		files[m.file("agent.yaml")] = tree{
			"node": node(m.site, m.name), "tls": l.tls(m.site, "agent", m.name), "gates": l.gateAddrs,
			"listen": m.agent, "data_dir": m.file("agent"), "run_dir": m.run(), "streams": streams,
			"rates_dir": m.file("rates"),
		}
	}
	for path, t := range files {
		if l.plant.Tune != nil {
			name, err := filepath.Rel(l.plant.Dir, path)
			if err != nil {
				return err
			}
			l.plant.Tune(name, t)
		}
		b, err := yaml.Marshal(t)
		if err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if err := os.WriteFile(path, b, 0o640); err != nil {
			return err
		}
	}
	return nil
}

// gateName is the process of gate i and its file and folder.
func gateName(i int) string {
	if i == 0 {
		return "gate"
	}
	return fmt.Sprintf("gate-%d", i+1)
}

// gateSite is where gate i stands.
func (l *Lab) gateSite(i int) string {
	if !l.plant.Spread {
		return SiteWitness
	}
	return []string{SiteWitness, SiteDR, SitePrimary}[i%3]
}

// etcd returns the caller's registry as the sites reach it.
func (l *Lab) etcd() []string {
	if l.net == nil {
		return l.plant.Etcd
	}
	var out []string
	for _, e := range l.plant.Etcd {
		out = append(out, strings.Replace(e, "127.0.0.1", l.net.host(""), 1))
	}
	return out
}

func (l *Lab) gateTree(addr, dir string) tree {
	t := tree{"listen": addr, "dir": dir, "timing": tree{"adopt": (30 * time.Second).String()}}
	if l.plant.Etcd != nil {
		t["registry"] = tree{"endpoints": l.etcd()}
	}
	switch {
	case l.plant.Probe != nil:
		t["probes"] = []tree{l.plant.Probe(l.routeAddr)}
	case !l.plant.NoService:
		t["probes"] = []tree{{
			"service": Service, "every": "100ms", "timeout": "1s",
			"settings": tree{
				"url":     "http://" + l.routeAddr + "/accounts",
				"headers": tree{"Content-Type": "application/json", "Request-Timeout": "900ms"},
				"body":    `{"client":"` + proberID + `","request":{n},"currency":"eur","to":"probe-{n}"}`,
			},
		}}
	}
	return t
}
