package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby"
)

// devSite is a directory of `tidegate dev`, laid out, and every role's file as
// its own process reads it.
type devSite struct {
	fs       vfs.FS
	plan     devPlan
	gate     gateFile
	route    routeFile
	agents   []agent.Config // p1's first
	standbys []standbyFile  // p1's first
}

// openDevSite makes what is missing in the directory and reads the rest. Files
// that are there are left alone: they may have been edited.
func openDevSite(fsys vfs.FS, plan devPlan) (*devSite, error) {
	s := &devSite{fs: fsys, plan: plan}
	if err := s.socketsFit(); err != nil {
		return nil, err
	}
	authority, err := pki.Dev(s.path("pki"), devCluster)
	if err != nil {
		return nil, err
	}
	for _, r := range s.roles() {
		if err := s.certify(authority, r); err != nil {
			return nil, err
		}
		if err := s.write(r); err != nil {
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	for _, f := range s.standbys {
		if err := s.format(f); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *devSite) path(elem ...string) string {
	return filepath.Join(append([]string{s.plan.Dir}, elem...)...)
}

func (s *devSite) operatorFile() string { return s.path("operator.yaml") }

// socketPathMax is what struct sockaddr_un holds, less the terminating zero.
const socketPathMax = 107

func (s *devSite) socketsFit() error {
	paths := []string{s.path("gate", "registry", "etcd.sock.peer")}
	for _, n := range s.plan.nodes() {
		for _, stream := range s.plan.Streams {
			paths = append(paths, local.SocketPath(s.path(n.name, "run"), local.DaemonStandby, tidegate.ServiceName(s.plan.Service), tidegate.StreamName(stream)))
		}
	}
	for _, p := range paths {
		if len(p) > socketPathMax {
			return &tidegate.Error{
				Op: "dev", Subject: s.plan.Dir, Class: tidegate.Misuse, Hint: "take a directory with a shorter name",
				Err: fmt.Errorf("the socket %s has %d bytes, the system takes %d", p, len(p), socketPathMax),
			}
		}
	}
	return nil
}

type tree map[string]any

// devRole is one file that is written, and the certificate it names.
type devRole struct {
	file string
	id   tidegate.Identity
	head string // its first line
	body tree
}

func (s *devSite) roles() []devRole {
	p, gates := s.plan, []string{s.plan.gateAddr()}
	role := func(file, site string, role tidegate.Role, name, command string, body tree) devRole {
		id := tidegate.Identity{Cluster: devCluster, Site: tidegate.SiteName(site), Role: role, Name: name}
		files := s.files(id)
		body["tls"] = tree{"ca": files.CA, "cert": files.Cert, "key": files.Key}
		if role != tidegate.RoleOperator {
			body["node"] = tree{"cluster": devCluster, "site": site, "name": name}
		}
		return devRole{file: file, id: id, head: "# Written by `tidegate dev` and read by it as by `" + command + "`; edit it while neither runs.\n", body: body}
	}
	all := []devRole{
		role(s.operatorFile(), devWitness, tidegate.RoleOperator, "me", "tidegate status", tree{"gates": gates}),
		role(s.path("gate.yaml"), devWitness, tidegate.RoleGate, "gate-1", "tidegate gate", tree{
			"gate": tree{"listen": p.gateAddr(), "dir": s.path("gate")},
		}),
		role(s.path("route.yaml"), devWitness, tidegate.RoleRoute, devRoute, "tidegate route", tree{
			"route": tree{
				"gates": gates, "dir": s.path("route"), "metrics": devAddr(p.PortBase+10, portMetrics),
				"services": []tree{{"name": p.Service, "listen": []string{devAddr(p.PortBase+10, portClients)}}},
			},
		}),
	}
	for _, n := range p.nodes() {
		var streams []tree
		for _, stream := range p.Streams {
			streams = append(streams, tree{
				"service": p.Service, "stream": stream, "source": agent.SourceJournal,
				"journal_dir": s.path(n.name, p.Service, "journal", stream), "endpoint": devAddr(n.ports, portHTTP),
			})
		}
		all = append(all, role(s.path(n.name, "agent.yaml"), n.site, tidegate.RoleAgent, n.name, "tidegate-agent run", tree{
			"gates": gates, "listen": devAddr(n.ports, portAgent), "data_dir": s.path(n.name, "agent"), "run_dir": s.path(n.name, "run"), "rates_dir": s.path(n.name, "rates"), "streams": streams,
		}))
		ship, api := devAddr(n.ports, portShip), devAddr(n.ports, portAPI)
		all = append(all, role(s.path(n.name, "standby.yaml"), n.site, tidegate.RoleStandby, n.name, "tidegate standby", tree{
			"gates": gates, "data_dir": s.path(n.name, "standby"), "run_dir": s.path(n.name, "run"), "rates_dir": s.path(n.name, "rates"),
			"ship": tree{"listen": ship, "public": ship}, "api": tree{"listen": api, "public": api},
		}))
	}
	return all
}

// devRoute is the name of the one route.
const devRoute = "route-1"

func (s *devSite) files(id tidegate.Identity) pki.Files {
	base := s.path("pki", fmt.Sprintf("%s-%s-%s", id.Site, id.Role, id.Name))
	return pki.Files{Cert: base + ".crt", Key: base + ".key", CA: s.path("pki", "ca.crt")}
}

// renewBefore is how long a certificate must still be good at the start.
const renewBefore = 30 * 24 * time.Hour

// certify issues r's certificate unless a good one is there.
func (s *devSite) certify(authority *pki.Authority, r devRole) error {
	f := s.files(r.id)
	creds, err := pki.Load(f.Cert, f.Key, f.CA)
	if err == nil && creds.Identity() == r.id && creds.ExpiresIn(time.Now()) > renewBefore {
		return nil
	}
	_, err = authority.Issue(r.id, devHosts(), devValidity)
	return err
}

func (s *devSite) write(r devRole) error {
	if _, err := s.fs.Stat(r.file); !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	text, err := yaml.Marshal(r.body)
	if err != nil {
		return fmt.Errorf("write %s: %w", r.file, err)
	}
	if err := durable.MkdirAll(s.fs, filepath.Dir(r.file)); err != nil {
		return err
	}
	return durable.WriteFile(s.fs, r.file, append([]byte(r.head), text...))
}

// format formats a standby node that has nothing. In production that is an
// operator's act, because there it may be a known node that lost its disk.
func (s *devSite) format(f standbyFile) error {
	names, err := s.fs.List(f.DataDir)
	if err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return err
	}
	if len(names) > 0 {
		return nil
	}
	_, err = standby.Format(s.fs, f.DataDir, f.Node.Name)
	return err
}

// listener is an address that some role will listen on.
type listener struct{ who, addr string }

func (s *devSite) listeners() []listener {
	all := []listener{{"the gate", s.gate.Gate.Listen}}
	for _, f := range s.standbys {
		who := "standby node " + string(f.Node.Name)
		all = append(all, listener{who + ", ship sessions", f.Ship.Listen}, listener{who + ", API", f.API.Listen})
	}
	for _, f := range s.agents {
		all = append(all, listener{"the agent on " + string(f.Node.Name), f.Listen})
	}
	if m := s.route.Route.MetricsAddr; m != "" {
		all = append(all, listener{"the route's metrics", m})
	}
	for _, svc := range s.route.Route.Services {
		for _, l := range svc.Listen {
			all = append(all, listener{"the route's clients of " + svc.Name, l})
		}
	}
	return all
}

// portsFree reports every address that is taken, before anything has started:
// a role alone would only say its own.
func (s *devSite) portsFree(ctx context.Context) error {
	var errs []error
	for _, l := range s.listeners() {
		ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if err == nil {
			defer ln.Close() //nolint:errcheck // nothing was accepted; held until the end, so that two roles with one port are found
			continue
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			_, port, _ := net.SplitHostPort(l.addr)
			err = fmt.Errorf("port %s of %s is in use", port, l.who)
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil
	}
	return &tidegate.Error{
		Op: "dev", Subject: s.plan.Dir, Class: tidegate.Misuse, Err: errors.Join(errs...),
		Hint: "stop what listens there, or begin a new directory with another --port-base",
	}
}
