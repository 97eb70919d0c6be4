package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/daemon/agentd"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

func devCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "dev",
		Usage:     "for trying out: every role in this process, on the same sockets, TLS and disks",
		ArgsUsage: " ",
		Description: "Lays out DIR when it is new: certificates, a configuration file for each role, formatted standby nodes.\n" +
			"Then runs a gate with its own etcd, an agent and a standby node for p1 at site east and for d1, d2, ...\n" +
			"at site west, and a route, registers the service, prints how to reach all of it, and serves until it is\n" +
			"interrupted. While the service is at east, p1's standby node rests; after a switchover it follows, for\n" +
			"the way back. Started again on the same DIR it goes on with everything kept: --dir is then enough, and\n" +
			"other flags must agree with what DIR was made with.\n\n" +
			"All listeners are on 127.0.0.1. With N for --port-base and i for the number of the standby node:\n\n" +
			"   p1        ship N+1, agent N+3, API N+4, service N+8, its raft N+9\n" +
			"   di        the same at N+10i+1, ...\n" +
			"   gate      API N+12\n" +
			"   route     metrics N+15, clients N+16\n\n" +
			"Not for production: one process is one failure, and the authority's key lies beside the rest.",
		Flags: append([]ucli.Flag{
			&ucli.StringFlag{Name: "dir", Usage: "`DIR` of everything this keeps"},
			&ucli.IntFlag{Name: "port-base", Value: 7400, Usage: "`N`, the first of the ports"},
			&ucli.StringFlag{Name: "service", Value: "bank", Usage: "`SERVICE` to register"},
			&ucli.StringSliceFlag{Name: "stream", Value: ucli.NewStringSlice("main"), Usage: "`STREAM` of the service; give each"},
			&ucli.IntFlag{Name: "standbys", Value: 3, Usage: "`NUMBER` of standby nodes at site west, 1 to 9"},
			&ucli.IntFlag{Name: "w", DefaultText: "a majority", Usage: "standby nodes that must have fsynced a batch"},
			&ucli.StringFlag{Name: "policy", Value: devPolicy, Usage: "`POLICY` at the gate's edge: block, reject, degrade or degrade-blind"},
			&ucli.DurationFlag{Name: "lease", DefaultText: "none", Usage: "`TIME` to live of the output lease, such as 5s"},
			cli.OutputFlag(),
		}, modeFlags("sync")...),
		Subcommands: []*ucli.Command{devPKICommand()},
		Action:      dev,
	}
}

func dev(c *ucli.Context) (err error) {
	if name := c.Args().First(); name != "" {
		return cli.Usagef("unknown command %q", name)
	}
	plan, err := devPlanOf(c)
	if err != nil {
		return err
	}
	fsys := vfs.OS()
	if err := durable.MkdirAll(fsys, plan.Dir); err != nil {
		return err
	}
	lock, err := fsys.Lock(filepath.Join(plan.Dir, "lock"))
	if err != nil {
		return &tidegate.Error{Op: "dev", Subject: plan.Dir, Class: tidegate.Misuse, Err: err, Hint: "another `tidegate dev` runs on this directory"}
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if plan, err = plan.keep(c, fsys); err != nil {
		return err
	}
	site, err := openDevSite(fsys, plan)
	if err != nil {
		return err
	}
	if err := site.portsFree(c.Context); err != nil {
		return err
	}
	return site.serve(c)
}

// serve runs every role until c ends.
func (s *devSite) serve(c *ucli.Context) (err error) {
	logs := &devLogs{dir: filepath.Join(s.plan.Dir, "logs"), level: logLevel(c)}
	defer func() { err = errors.Join(err, logs.close()) }()
	levels, err := s.levels(logs)
	if err != nil {
		return err
	}
	levels = append(levels,
		[]daemon.Part{s.once("register", s.register)},
		[]daemon.Part{s.once("show", func(context.Context) error { return s.show(c) })})
	return daemon.ServeStacked(c.Context, daemon.Logger(c.App.ErrWriter, logLevel(c)), "dev", levels...)
}

// levels are all roles, each made as its own process makes it, in the order in
// which they start. A part's name says whose it is.
func (s *devSite) levels(logs *devLogs) ([][]daemon.Part, error) {
	var gate, standbys, agents, route []daemon.Part
	var errs []error
	add := func(to *[]daemon.Part, role string, build func(*slog.Logger) ([]daemon.Part, error)) {
		log, err := logs.open(role)
		if err != nil {
			errs = append(errs, err)
			return
		}
		parts, err := build(log)
		errs = append(errs, err)
		for _, p := range parts {
			if p.Name != role {
				p.Name = role + ": " + p.Name
			}
			*to = append(*to, p)
		}
	}
	add(&gate, "gate", func(l *slog.Logger) ([]daemon.Part, error) { return gateParts(s.gate, l) })
	for _, f := range s.standbys {
		add(&standbys, "standby-"+string(f.Node.Name), func(l *slog.Logger) ([]daemon.Part, error) { return standbyParts(f, l) })
	}
	for _, f := range s.agents {
		add(&agents, "agent-"+string(f.Node.Name), func(l *slog.Logger) ([]daemon.Part, error) { return agentd.Parts(f, l) })
	}
	add(&route, "route", func(l *slog.Logger) ([]daemon.Part, error) { return routeParts(s.route, l) })
	return [][]daemon.Part{gate, standbys, agents, route}, errors.Join(errs...)
}

// once is a part that does one thing and then stays until it is stopped.
func (s *devSite) once(name string, do func(context.Context) error) daemon.Part {
	done := make(chan struct{})
	return daemon.Part{Name: name, Ready: done, Run: func(ctx context.Context) error {
		if err := do(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // interrupted before it was done
			}
			return err
		}
		close(done)
		<-ctx.Done()
		return nil
	}}
}

// devLogs are the log files of the roles: each has its own, as it would alone.
type devLogs struct {
	dir   string
	level slog.Level
	files []*os.File
}

// open begins a role's log; that of the last run is kept beside it as .old.
func (l *devLogs) open(role string) (*slog.Logger, error) {
	if err := os.MkdirAll(l.dir, 0o750); err != nil {
		return nil, err
	}
	path := filepath.Join(l.dir, role+".log")
	if err := os.Rename(path, path+".old"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	l.files = append(l.files, f)
	return daemon.Logger(f, l.level), nil
}

func (l *devLogs) close() error {
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// loadDev reads a role's file through the reader that its own process uses.
func loadDev[F config.Defaulter[F]](s *devSite, errs *[]error, elem ...string) F {
	f, err := config.Load[F](s.path(elem...))
	*errs = append(*errs, err)
	return f
}

// load reads every role's file.
func (s *devSite) load() error {
	var errs []error
	s.gate = loadDev[gateFile](s, &errs, "gate.yaml")
	s.route = loadDev[routeFile](s, &errs, "route.yaml")
	for _, n := range s.plan.nodes() {
		s.agents = append(s.agents, loadDev[agent.Config](s, &errs, n.name, "agent.yaml"))
		s.standbys = append(s.standbys, loadDev[standbyFile](s, &errs, n.name, "standby.yaml"))
	}
	return errors.Join(errs...)
}
