package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/drills/evidence"
	"github.com/tidegate/tidegate/drills/shadow"
	"github.com/tidegate/tidegate/drills/worker"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/daemon"
	"github.com/tidegate/tidegate/internal/vfs"
)

func drillWorkerCommand() *ucli.Command {
	return &ucli.Command{
		Name: "worker", Usage: "carry out drills as the gates schedule them", ArgsUsage: " ",
		Flags: []ucli.Flag{
			&ucli.StringSliceFlag{Name: "config", Aliases: []string{"c"}, Value: ucli.NewStringSlice(drillDir), Usage: "drill's `FILE`, or a directory of them; may be said more than once"},
			&ucli.DurationFlag{Name: "limit", Value: time.Hour, Usage: "how long one drill may take"},
			&ucli.DurationFlag{Name: "every", Value: 10 * time.Second, Usage: "how often the gates are asked for drills"},
		},
		Action: drillWork,
		Description: "Runs until it is ended. It asks the gates that each file names whether a drill of the service is due, runs it as `drill run` does,\n" +
			"one at a time, and says how far it is; a gate may call it off. What a worker that was killed has left is cleaned first.\n" +
			"Gates that are away are waited for. `tidegate drill schedule` says when drills are wanted.",
	}
}

func drillWork(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	if c.Duration("limit") <= 0 || c.Duration("every") <= 0 {
		return cli.Usagef("drill worker: --limit, --every: want more than 0 (got %s, %s)", c.Duration("limit"), c.Duration("every"))
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	jobs, err := drillJobs(c.StringSlice("config"), host, c.Duration("limit"))
	if err != nil {
		return err
	}
	log := daemon.Logger(c.App.ErrWriter, logLevel(c))
	w := worker.New(clock.System(), log, jobs, worker.Config{Every: c.Duration("every"), Last: daemon.StopWithin / 2})
	return daemon.Serve(c.Context, log, "drill worker", daemon.Part{Name: "worker", Run: w.Run})
}

// drillJobs reads the files of a worker. Its error names all that is wrong with them.
func drillJobs(paths []string, host string, limit time.Duration) ([]worker.Job, error) {
	files, err := drillFiles(paths)
	if err != nil {
		return nil, err
	}
	var jobs []worker.Job
	var wrong []error
	of := map[tidegate.ServiceName]string{}
	for _, path := range files {
		cfg, err := config.Load[shadow.Config](path)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if other, twice := of[cfg.Service]; twice {
			wrong = append(wrong, cli.Usagef("%s, %s: both are files of service %s", other, path, cfg.Service))
			continue
		}
		of[cfg.Service] = path
		jobs = append(jobs, worker.Job{
			Service: cfg.Service, Gates: &drillGates{cfg: cfg, name: host},
			Clean: func() ([]string, error) { return cleaned(shadow.CleanUp(vfs.OS(), clock.System(), cfg.Scratch)) },
			// Read anew for each drill: what was changed since counts.
			Begin: func(worker.Claim) (worker.Drill, error) {
				ask, err := openDrill(path, shadow.Options{Limit: limit})
				if err == nil && ask.cfg.Service != cfg.Service {
					err = fmt.Errorf("%s is the file of service %s now: start the worker anew", path, ask.cfg.Service)
				}
				return &workersDrill{ask: ask}, err
			},
		})
	}
	return jobs, errors.Join(wrong...)
}

// drillFiles are the files that are named, and those of the directories that are.
func drillFiles(paths []string) (files []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, &tidegate.Error{Op: "read drills", Subject: path, Class: tidegate.Misuse, Err: err, Hint: "--config names a drill's file, or a directory of them"}
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		found, err := filepath.Glob(filepath.Join(path, "*.yaml"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	slices.Sort(files)
	if files = slices.Compact(files); len(files) == 0 {
		return nil, &tidegate.Error{
			Op: "read drills", Subject: strings.Join(paths, ", "), Class: tidegate.Misuse, Err: fmt.Errorf("no file of a drill: %w", fs.ErrNotExist),
			Hint: "a drill's file is SERVICE.yaml, docs/operating/drills.md",
		}
	}
	return files, nil
}

func cleaned(found []evidence.LeftOver, err error) (out []string, _ error) {
	for _, l := range found {
		out = append(out, l.What+" "+l.Where)
	}
	return out, err
}

// workersDrill is a drill as a worker runs it.
type workersDrill struct {
	ask  *drillAsk
	done rehearsed
}

// Run implements [worker.Drill].
func (d *workersDrill) Run(ctx context.Context) worker.End {
	done, err := d.ask.rehearse(ctx)
	if err != nil {
		return worker.End{Outcome: string(evidence.Refused), Why: err.Error()}
	}
	d.done = done
	e := worker.End{Outcome: string(done.verdict.Outcome), Why: strings.Join(done.verdict.Sentences(), "; ")}
	if done.unkept != nil {
		e.Why = strings.TrimPrefix(e.Why+"; ", "; ") + done.unkept.Error()
		return e
	}
	e.Report = done.sealed.Report.ID.String()
	return e
}

// Progress implements [worker.Drill].
func (d *workersDrill) Progress() string { return d.ask.drill.Progress() }

// Record implements [worker.Drill].
func (d *workersDrill) Record(ctx context.Context) error { return d.ask.record(ctx, d.done.store) }

// drillGates asks the gates of a drill's file under the drill's identity. It belongs to
// the one worker, which asks about a service from one goroutine or, beside a drill, two.
type drillGates struct {
	cfg  shadow.Config
	name string // of the machine
}

// ask calls a gate. The certificate is read for each call: it may have been renewed.
func (g *drillGates) ask(ctx context.Context, op string, call func(tidegatev1connect.OperatorServiceClient) error) error {
	gates, err := gatesOf(&g.cfg)
	if err != nil {
		return err
	}
	defer gates.http.CloseIdleConnections()
	return gates.do(ctx, op, string(g.cfg.Service), call)
}

// Take implements [worker.Gates].
func (g *drillGates) Take(ctx context.Context) (*worker.Claim, string, error) {
	var got *pb.TakeDrillResponse
	err := g.ask(ctx, "take drill", func(gate tidegatev1connect.OperatorServiceClient) error {
		res, err := gate.TakeDrill(ctx, connect.NewRequest(&pb.TakeDrillRequest{
			Service: string(g.cfg.Service), Worker: fmt.Sprintf("%s (%d)", g.name, os.Getpid()), Levels: []string{string(evidence.L1)},
		}))
		if err == nil {
			got = res.Msg
		}
		return err
	})
	c := got.GetClaim()
	if err != nil || c == nil {
		return nil, got.GetWhy(), err
	}
	return &worker.Claim{ID: c.GetId(), Level: c.GetLevel(), Scenario: c.GetScenario(), Silence: c.GetSilence().AsDuration()}, "", nil
}

// Report implements [worker.Gates].
func (g *drillGates) Report(ctx context.Context, claim, step string) (abort string, err error) {
	err = g.ask(ctx, "report drill", func(gate tidegatev1connect.OperatorServiceClient) error {
		res, err := gate.ReportDrill(ctx, connect.NewRequest(&pb.ReportDrillRequest{Service: string(g.cfg.Service), Claim: claim, Step: step}))
		if err == nil && res.Msg.GetAbort() {
			abort = res.Msg.GetReason()
		}
		return err
	})
	return abort, err
}

// End implements [worker.Gates].
func (g *drillGates) End(ctx context.Context, claim string, e worker.End) (held bool, err error) {
	err = g.ask(ctx, "end drill", func(gate tidegatev1connect.OperatorServiceClient) error {
		res, err := gate.EndDrill(ctx, connect.NewRequest(&pb.EndDrillRequest{
			Service: string(g.cfg.Service), Claim: claim, Outcome: e.Outcome, Why: e.Why, Report: e.Report,
		}))
		if err == nil {
			held = res.Msg.GetHeld()
		}
		return err
	})
	return held, err
}
