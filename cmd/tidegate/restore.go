package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores"
	journalrestore "github.com/tidegate/tidegate/stores/journal/restore"
	pgrestore "github.com/tidegate/tidegate/stores/postgres/restore"
	"github.com/tidegate/tidegate/stores/postgres/server"
)

func restoreCommand() *ucli.Command {
	return &ucli.Command{
		Name: "restore", Usage: "rebuild a service's store out of an archive alone, or of a standby node", ArgsUsage: " ",
		Flags: fromFlags(
			&ucli.StringFlag{Name: "to", Value: "latest", Usage: "`TARGET`: latest, a time (2026-11-22T06:30:00Z), a position, seq:N"},
			&ucli.UintFlag{Name: "generation", Usage: "`NUMBER` of the generation that a position is of", DefaultText: "the newest"},
			&ucli.StringFlag{Name: "into", Usage: "`DIR`, empty or not there yet; or that of a restore that was cut off, which goes on"},
			&ucli.StringFlag{Name: "base", Usage: "begin with the base whose `NAME` begins so, as `tidegate window` lists them; none: a journal's log from its beginning", DefaultText: "the newest that will do, else none"},
			&ucli.BoolFlag{Name: "dry-run", Usage: "say what would be fetched, and whether the directory will do; write nothing"},
			&ucli.BoolFlag{Name: "start", Usage: "postgres: start the server, and wait until it has recovered and takes writes"},
			&ucli.StringFlag{Name: "account", Usage: "postgres: `USER` that the server runs as", DefaultText: "this one, postgres for root"},
			&ucli.StringFlag{Name: "bin-dir", Usage: "postgres: `DIR` of its programs, for --start", DefaultText: "/usr/lib/postgresql/<release>/bin"},
			&ucli.UintFlag{Name: "port", Value: 5432, Usage: "postgres: `PORT`, a part of the name of the socket in DIR/run"},
			recoveriesFlag(),
			&ucli.StringFlag{Name: "cpuprofile", Hidden: true, Usage: "write a processor profile of the restore to `FILE`, for `go tool pprof`"},
			&ucli.StringFlag{Name: "segment-bytes", Usage: "journal: `SIZE` of its segments, as the service has it", DefaultText: "64MiB"},
		),
		Action: restoreArchive,
		Description: "Needs this program and what reaches the archive: no gate, no standby node. With --from it reads a node of the standby\n" +
			"cluster instead, up to what that knows to be committed, and begins with a base that the node holds, which lies in DIR.base\n" +
			"meanwhile. Refuses before anything is written when the\n" +
			"directory is not empty, or its file system too small (4), and when the target is not in the archive (6). Cut off anywhere,\n" +
			"the same command goes on where it was. A PostgreSQL server is restored without the primary's archiving, replication\n" +
			"and addresses, and listens on the socket in DIR/run alone.\n\n" +
			"Examples:\n" +
			"   tidegate restore --url file:///srv/archive --service bank --into /srv/restored\n" +
			"   tidegate restore --archive /etc/tidegate/archive.yaml --service shop --to 2026-11-22T06:30:00Z --into /srv/pg --start\n" +
			"   tidegate restore --url s3://backups/dr --service shop --to 16/B374D848 --into /srv/pg --dry-run\n" +
			"   tidegate restore --from west1.west.example:7414 --service shop --into /srv/pg --start",
	}
}

// restorer is a store's, and what starts it.
type restorer struct {
	stores.Restorer
	start func(context.Context) (string, error) // nil: not by this command
}

// restoreResult is what the command prints.
type restoreResult struct {
	Service   tidegate.ServiceName `json:"service"`
	Stream    tidegate.StreamName  `json:"stream"`
	Into      string               `json:"into"`
	To        string               `json:"to"`
	DryRun    bool                 `json:"dry_run"`
	Resumes   bool                 `json:"resumes"`
	Base      string               `json:"base,omitempty"`
	Begin     archive.Place        `json:"begin"`
	End       archive.Place        `json:"end"`
	BaseBytes int64                `json:"base_bytes"`
	LogBytes  int64                `json:"log_bytes"` // as stored
	Room      int64                `json:"room_bytes"`
	restorePredicted

	Position  *tidegate.Position `json:"position,omitempty"`
	Records   *uint64            `json:"records,omitempty"` // behind the base
	Newest    *time.Time         `json:"newest,omitempty"`
	Kept      int64              `json:"kept_bytes"`
	Took      *float64           `json:"took_s,omitempty"`
	StartTook *float64           `json:"start_took_s,omitempty"` // of it, with --start
	FetchTook *float64           `json:"fetch_took_s,omitempty"` // before it: the base, from a node
	Path      string             `json:"path,omitempty"`
	Started   string             `json:"started,omitempty"`
	Next      string             `json:"next,omitempty"`
	Unproven  string             `json:"unproven,omitempty"` // what may be missing, of a restore to a time

	show func(tidegate.Position) string
	kind string
}

func restoreArchive(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	if c.String("into") == "" {
		return cli.Usagef("restore into which directory? --into DIR")
	}
	if c.String("service") == "" {
		return cli.Usagef("restore which service? --service SERVICE")
	}
	dir, err := filepath.Abs(c.String("into"))
	if err != nil {
		return err
	}
	clk := clock.System()
	target := cold.Target{FS: vfs.OS(), Clock: clk, Dir: dir}
	stage, err := stageOf(c, target)
	if err != nil {
		return err
	}
	at, err := openStream(c, stage)
	if err != nil {
		return err
	}
	kind := at.kind
	to, err := kind.parseTo(c.String("to"), c.Uint("generation"))
	if err != nil {
		return err
	}
	if c.String("base") == cold.NoBase && kind.needsBase {
		return cli.Usagef("--base none is for journals: a %s store is not rebuilt from its log alone", at.s.Info.Store)
	}
	choice := cold.Choice{To: to, Base: c.String("base"), NeedsBase: kind.needsBase}
	plan, bases, resumes, err := planRestore(c, at, choice.GoingOn(target), target)
	if err != nil {
		return err
	}
	defer bases.Close()
	var store restorer
	if plan.Base == nil || plan.Base.Store != nil { // else it is only told of: what starts it shows when it has come
		if store, err = restorerOf(c, plan, dir, clk); err != nil {
			return err
		}
	}
	out := restorePlanned(plan, dir, resumes, kind)
	if at.fetched > 0 {
		out.FetchTook = new(at.fetched.Seconds())
	}
	known := openRecoveries(c)
	if err := out.predict(c.Context, clk, plan, known.all); err != nil {
		return err
	}
	if out.DryRun = c.Bool("dry-run"); out.DryRun {
		return cli.Print(c, out, out.writePlan)
	}
	if !cli.WantsJSON(c) {
		if err := out.writePlan(c.App.ErrWriter); err != nil {
			return err
		}
	}
	err = profiled(c.String("cpuprofile"), func() error { return out.run(c, plan, target, store, known) })
	if err != nil {
		return err
	}
	if err := unstage(stage, plan.Stream.Info.Stream); err != nil {
		return err
	}
	return cli.Print(c, out, out.writeDone)
}

// planRestore plans a restore, and asks whether the directory will do; a base that a node
// holds is fetched then, unless nothing is to be written. The caller closes the bases.
func planRestore(c *ucli.Context, at *place, choice cold.Choice, target cold.Target) (plan *cold.Plan, bases *archive.Bases, resumes bool, err error) {
	if bases, err = at.bases(c.Context); err != nil {
		return nil, nil, false, err
	}
	defer func() {
		if err != nil {
			bases.Close()
		}
	}()
	if plan, err = cold.Choose(c.Context, at.s, bases, choice); err != nil {
		return nil, bases, false, err
	}
	if resumes, err = plan.Check(c.Context, target); err != nil || at.node == nil || c.Bool("dry-run") {
		return plan, bases, resumes, err
	}
	fetched, come, err := at.fetch(c, plan, choice)
	if err != nil {
		return nil, bases, false, err
	}
	bases.Close()
	plan, bases = fetched, come
	resumes, err = plan.Check(c.Context, target)
	return plan, bases, resumes, err
}

// restorerOf picks the store's restorer, and makes sure before anything is fetched
// that --start can be done.
func restorerOf(c *ucli.Context, plan *cold.Plan, dir string, clk clock.Clock) (restorer, error) {
	if plan.Stream.Info.Store == journalKind {
		if c.Bool("start") {
			return restorer{}, cli.Usagef("--start is for postgres: a journal is its service's")
		}
		var size config.Bytes
		if text := c.String("segment-bytes"); text != "" {
			if err := size.UnmarshalText([]byte(text)); err != nil {
				return restorer{}, cli.Usagef("--segment-bytes: %w", err)
			}
		}
		return restorer{Restorer: journalrestore.New(vfs.OS(), journalrestore.Config{Dir: dir, SegmentBytes: int64(size)})}, nil
	}
	cfg := pgrestore.Config{Home: dir, BinDir: c.String("bin-dir"), Port: uint16(c.Uint("port"))}
	name := c.String("account")
	if name == "" && os.Getuid() == 0 {
		name = "postgres" // its server refuses to run as root
	}
	if name != "" {
		a, err := server.LookupAccount(name)
		if err != nil {
			return restorer{}, err
		}
		cfg.Account = &a
	}
	if c.Bool("start") && cfg.BinDir == "" {
		var err error
		if cfg.BinDir, err = pgrestore.FindBin(plan.Base.Info); err != nil {
			return restorer{}, err
		}
	}
	pg, err := pgrestore.New(vfs.OS(), clk, slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		return restorer{}, err
	}
	return restorer{Restorer: pg, start: func(ctx context.Context) (string, error) {
		p, err := pg.Start(ctx)
		return fmt.Sprintf("timeline %s, from %s on", p.Timeline, p.Fork), err
	}}, nil
}

func restorePlanned(plan *cold.Plan, dir string, resumes bool, kind storeKind) *restoreResult {
	info := plan.Stream.Info
	out := &restoreResult{
		Service: info.Service, Stream: info.Name, Into: dir, To: plan.To.String(), Resumes: resumes, Begin: plan.Begin, End: plan.End,
		BaseBytes: plan.BaseBytes, LogBytes: plan.LogBytes, Room: plan.Bytes, show: kind.show, kind: info.Store,
	}
	if plan.Base != nil {
		out.Base = plan.Base.Name.String()
	}
	return out
}

// profiled does work, and writes a processor profile of it to path unless that is empty.
func profiled(path string, work func() error) (err error) {
	if path == "" {
		return work()
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	err = work()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// run restores, and starts what was restored if that was asked for.
func (o *restoreResult) run(c *ucli.Context, plan *cold.Plan, target cold.Target, store restorer, known *recoveries) error {
	var m cold.Meter
	var res cold.Result
	progress := func() (done, total int64) { p := m.Progress(); return p.Done, p.Total }
	err := withProgress(c, "restore "+streamLabel(plan.Stream.Info), progress, func(ctx context.Context) (err error) {
		res, err = plan.Run(ctx, target, store, &m)
		return err
	})
	if err != nil {
		if c.Context.Err() != nil {
			err = errors.Join(err, c.Context.Err())
		}
		if tidegate.HintOf(err) == "" {
			err = &tidegate.Error{Op: "restore", Subject: streamLabel(plan.Stream.Info), Err: err, Hint: "the same command goes on where it was"}
		}
		return err
	}
	o.Position, o.Kept, o.Path, o.Next, o.End = new(res.Position), res.Bytes.Kept, res.Path, res.Next, res.Place
	o.Records = new(res.Records)
	if res.Newest != 0 {
		o.Newest = new(time.Unix(0, res.Newest).UTC())
	}
	o.Replay = int64(res.Position - plan.From())
	o.Took = new(res.Took.Seconds())
	if res.Unproven {
		from := "the base"
		if o.Newest != nil {
			from = o.Newest.Format(time.RFC3339Nano)
		}
		o.Unproven = fmt.Sprintf("no record later than the target is archived: what was committed between %s and %s may be missing", from, o.To)
	}
	var starting time.Duration
	if c.Bool("start") {
		began := time.Now()
		if o.Started, err = store.start(c.Context); err != nil {
			return err
		}
		o.Next, starting = "", time.Since(began)
		o.StartTook = new(starting.Seconds())
		*o.Took += *o.StartTook
	}
	if r, worth := plan.Took(time.Now(), &res, starting); worth {
		known.keep(r)
	}
	return nil
}

func seconds(s *float64) string {
	if s == nil {
		return cli.Unknown
	}
	return cli.Span(time.Duration(*s * float64(time.Second)))
}

// writePlan says what will be done.
func (o *restoreResult) writePlan(w io.Writer) error {
	var b strings.Builder
	verb := "restore"
	if o.Resumes {
		verb = "go on restoring"
	}
	fmt.Fprintf(&b, "%s %s/%s to %s into %s\n", verb, o.Service, o.Stream, o.To, o.Into)
	if o.Base != "" {
		fmt.Fprintf(&b, "base: %.12s, %s of files\n", o.Base, cli.Size(o.BaseBytes))
	}
	fmt.Fprintf(&b, "log: batches %d to %d, %s as stored, up to %s\n", uint64(o.Begin.Seq), uint64(o.End.Seq), cli.Size(o.LogBytes), o.show(o.End.Next))
	fmt.Fprintf(&b, "room: %s\n%s", cli.Size(o.Room), o.restorePredicted.text(o.kind))
	_, err := io.WriteString(w, b.String())
	return err
}

// writeDone says what was done.
func (o *restoreResult) writeDone(w io.Writer) error {
	var b strings.Builder
	predicted := o.Predicted
	if o.Started != "" {
		predicted = o.Recovery
	}
	fmt.Fprintf(&b, "restored %s/%s to position %s in %s, predicted %s\n", o.Service, o.Stream, o.show(*o.Position), seconds(o.Took), seconds(predicted))
	if o.FetchTook != nil {
		fmt.Fprintf(&b, "before that the base came from the node in %s\n", seconds(o.FetchTook))
	}
	if o.Newest != nil {
		fmt.Fprintf(&b, "newest record: %s\n", o.Newest.Format(time.RFC3339Nano))
	}
	if o.Started == "" {
		fmt.Fprint(&b, o.replayText(o.kind))
	}
	if o.Unproven != "" {
		fmt.Fprintf(&b, "WARNING: %s\n", o.Unproven)
	}
	if o.Kept > 0 {
		fmt.Fprintf(&b, "found from before: %s\n", cli.Size(o.Kept))
	}
	fmt.Fprintf(&b, "in: %s\n", o.Path)
	if o.Started != "" {
		fmt.Fprintf(&b, "started: %s\n", o.Started)
	}
	if o.Next != "" {
		fmt.Fprintf(&b, "next: %s\n", o.Next)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
