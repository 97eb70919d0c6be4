package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/stores/journal/replay"
)

func replayCommand() *ucli.Command {
	return &ucli.Command{
		Name: "replay", Usage: "feed a range of an archived log to a service in a sandbox, and compare its state with what is on record", ArgsUsage: " ",
		Flags: archiveFlags(
			&ucli.StringFlag{Name: "from", Usage: "`TARGET` with which the pace begins: a time (2026-11-22T06:30:00Z), a position, seq:N; what lies before it is fed as fast as it goes", DefaultText: "where the state begins"},
			&ucli.StringFlag{Name: "to", Value: "latest", Usage: "`TARGET` where it ends: latest, a time, a position, seq:N"},
			&ucli.UintFlag{Name: "generation", Usage: "`NUMBER` of the generation that a position is of", DefaultText: "the newest"},
			&ucli.StringFlag{Name: "speed", Value: "max", Usage: "`PACE`: a multiple of the source's, as in 1x, 10x or 0.5x, or max"},
			&ucli.StringFlag{Name: "base", Usage: "begin with the base whose `NAME` begins so, as `tidegate window` lists them; none: with the log's beginning", DefaultText: "the newest before --from, else the log's beginning"},
			&ucli.StringFlag{Name: "digest", Usage: "`DIGEST` that the state must have in the end", DefaultText: "what is on record"},
			&ucli.StringFlag{Name: "run", Usage: "`DIR`, empty or not there yet: the run folder that the service in the sandbox is started with"},
			&ucli.DurationFlag{Name: "wait", Value: time.Minute, Usage: "how long the service may be away, before it connects and whenever it has gone"},
			recoveriesFlag(),
			&ucli.BoolFlag{Name: "dry-run", Usage: "say what would be fed, and where digests are on record; listen nowhere"},
		),
		Action: replayArchive,
		Description: "For event-sourced services. Plays the standby node to the service's own program, which is started in the role that it has at\n" +
			"the standby site, with an empty data folder and DIR as its run folder. Reads the archive alone: no gate and no node is reached.\n" +
			"The digest of its state is compared where one is on record: at bases, at handovers, and at the end with --digest. Ends with 9\n" +
			"at the first that differs, and with 12 when none is on record at the end. The service keeps running, in the state of that moment,\n" +
			"and goes on from there with the next replay that goes further.\n\n" +
			"Examples:\n" +
			"   tidegate replay --url file:///srv/archive --service bank --run /tmp/sandbox/run\n" +
			"   tidegate replay --archive /etc/tidegate/archive.yaml --service bank --run /tmp/sandbox/run --from 2026-11-22T06:00:00Z --to 2026-11-22T07:00:00Z --speed 10x",
	}
}

// replayAsk is what the flags say.
type replayAsk struct {
	choice func(storeKind) (replay.Choice, error)
	config replay.Config
}

// replayResult is what the command prints of a stream.
type replayResult struct {
	Service tidegate.ServiceName `json:"service"`
	Stream  tidegate.StreamName  `json:"stream"`
	To      string               `json:"to"`
	Base    string               `json:"base,omitempty"` // empty: the log's beginning
	First   tidegate.Position    `json:"first"`
	Begin   archive.Place        `json:"begin"`
	End     archive.Place        `json:"end"`
	Marks   []replay.Mark        `json:"on_record"` // of bases, in the range
	DryRun  bool                 `json:"dry_run"`

	Predicted *float64 `json:"predicted_s"` // null: not known, or not as fast as it goes

	Position *tidegate.Position `json:"position,omitempty"`
	Took     *float64           `json:"took_s,omitempty"`
	Records  *uint64            `json:"records,omitempty"` // fed by this command
	Bytes    *uint64            `json:"bytes,omitempty"`
	Newest   *time.Time         `json:"newest,omitempty"`
	Digest   string             `json:"digest,omitempty"` // empty: the service gives none
	Checked  []replay.Checked   `json:"checked,omitempty"`
	Verdict  replay.Verdict     `json:"verdict,omitempty"`
	Why      string             `json:"why,omitempty"`
}

func replayArchive(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	ask, err := replayFlags(c)
	if err != nil {
		return err
	}
	r, err := openArchive(c)
	if err != nil {
		return err
	}
	plans, bases, err := replayPlans(c, r, ask)
	defer func() {
		for _, b := range bases {
			b.Close()
		}
	}()
	if err != nil {
		return err
	}
	known := openRecoveries(c)
	out := make([]*replayResult, 0, len(plans))
	for _, p := range plans {
		one := replayPlanned(c, p)
		if ask.config.Speed == 0 {
			one.Predicted = predictReplay(p, known.all)
		}
		out = append(out, one)
	}
	if c.Bool("dry-run") {
		return cli.Print(c, out, func(w io.Writer) error { return writeReplayPlans(w, out) })
	}
	dir := ask.config.RunDir
	if err := scratch(dir); err != nil {
		return err
	}
	run, err := replay.New(clock.System(), ask.config, plans)
	if err != nil {
		return err
	}
	if err := writeReplayPlans(c.App.ErrWriter, out); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.App.ErrWriter, "waiting for the service: start it in its standby role, with run folder %s\n", dir); err != nil {
		return err
	}
	began := time.Now()
	var got []replay.Outcome
	line := func(time.Duration) string { return replayLine(run, plans, ask.config.Speed, time.Since(began)) }
	err = withLines(c, "replay "+c.String("service"), line, func(ctx context.Context) (err error) {
		got, err = run.Run(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for i := range out {
		out[i].end(&got[i])
		if ask.config.Speed > 0 || got[i].Bytes == 0 {
			continue // it says nothing of how fast the service is
		}
		known.keep(replayTook(plans[i].Stream, time.Now(), &got[i]))
	}
	if err := cli.Print(c, out, func(w io.Writer) error { return writeReplayed(w, out) }); err != nil {
		return err
	}
	return replayVerdict(out)
}

// replayFlags reads what can be said without the archive; all mistakes at once.
func replayFlags(c *ucli.Context) (ask replayAsk, err error) {
	var errs []error
	ask.config.Wait = c.Duration("wait")
	if c.String("service") == "" {
		errs = append(errs, errors.New("replay which service? --service SERVICE"))
	}
	if ask.config.Wait <= 0 {
		errs = append(errs, fmt.Errorf("--wait: want more than 0 (got %s)", ask.config.Wait))
	}
	if ask.config.Speed, err = parseSpeed(c.String("speed")); err != nil {
		errs = append(errs, err)
	}
	switch run := c.String("run"); {
	case run != "":
		if ask.config.RunDir, err = filepath.Abs(run); err != nil {
			errs = append(errs, err)
		}
	case !c.Bool("dry-run"):
		errs = append(errs, errors.New("--run: want a scratch folder, for the sockets of the service in the sandbox"))
	}
	var digest tidegate.Digest
	if text := c.String("digest"); text != "" {
		if err := digest.UnmarshalText([]byte(text)); err != nil {
			errs = append(errs, fmt.Errorf("--digest: %w", err))
		}
	}
	if len(errs) > 0 {
		return ask, cli.Usagef("%w", errors.Join(errs...))
	}
	ask.choice = func(kind storeKind) (choice replay.Choice, err error) {
		choice.Digest = digest
		if choice.Base = c.String("base"); choice.Base == "none" {
			choice.Base, choice.Beginning = "", true
		}
		if text := c.String("from"); text != "" {
			if choice.From, err = kind.parseTo(text, c.Uint("generation")); err != nil {
				return choice, err
			}
			if choice.From == (cold.To{}) {
				return choice, cli.Usagef("--from: want a time, a position or seq:N (got %q)", text)
			}
		}
		choice.To, err = kind.parseTo(c.String("to"), c.Uint("generation"))
		return choice, err
	}
	return ask, nil
}

// parseSpeed reads a multiple of the source's pace; 0 is max.
func parseSpeed(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "x"), 64)
	if err != nil || !(v > 0 && v <= 1e6) {
		return 0, fmt.Errorf("--speed: want a multiple of the source's pace, as in 10x, or max (got %q)", s)
	}
	return v, nil
}

// replayPlans plans each stream that --service names. The caller closes the bases, also
// those that come with an error.
func replayPlans(c *ucli.Context, r *archive.Reader, ask replayAsk) (plans []*replay.Plan, opened []*archive.Bases, err error) {
	fit, faults, err := archivedStreams(c, r)
	if err != nil {
		return nil, nil, err
	}
	if len(fit) == 0 {
		return nil, nil, faults[0].Err
	}
	for _, info := range fit {
		kind, err := kindOf(info)
		if err != nil {
			return nil, opened, err
		}
		if info.Store != journalKind {
			return nil, opened, &tidegate.Error{
				Op: "replay", Subject: streamLabel(info), Class: tidegate.Refused, Err: fmt.Errorf("store of kind %q: %w", info.Store, tidegate.ErrUnsupported),
				Hint: "only a journal is fed to a service; `tidegate restore --to` brings a server to any moment",
			}
		}
		choice, err := ask.choice(kind)
		if err != nil {
			return nil, opened, err
		}
		if len(fit) > 1 && (ofOneStream(choice.From) || ofOneStream(choice.To) || choice.Base != "" || !choice.Digest.IsZero()) {
			return nil, opened, cli.Usagef("a position, a batch, a base and a digest are of one stream: --service %s", streamLabel(info))
		}
		s, err := r.Open(c.Context, info)
		if err != nil {
			return nil, opened, err
		}
		bases, err := s.Bases(c.Context)
		if err != nil {
			return nil, opened, err
		}
		opened = append(opened, bases)
		p, err := replay.Make(c.Context, s, bases, choice)
		if err != nil {
			return nil, opened, fmt.Errorf("%s: %w", streamLabel(info), err)
		}
		plans = append(plans, p)
	}
	return plans, opened, nil
}

func ofOneStream(t cold.To) bool { return t.Position != 0 || t.Seq != 0 }

// scratch refuses a run folder that may be somebody's.
func scratch(dir string) error {
	refuse := func(what string) error {
		return &tidegate.Error{
			Op: "replay with run folder", Subject: dir, Class: tidegate.Refused, Err: errors.New(what),
			Hint: "nothing was done; name a folder of its own, which no daemon and no live service knows",
		}
	}
	found, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return &tidegate.Error{Op: "replay with run folder", Subject: dir, Class: tidegate.Misuse, Err: err}
	}
	for _, e := range found {
		left, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if e.Name() != "standby" || err != nil || len(left) > 0 { // an earlier replay leaves it empty
			return refuse("it is not empty: " + e.Name())
		}
	}
	return nil
}

func replayPlanned(c *ucli.Context, p *replay.Plan) *replayResult {
	info := p.Stream.Info
	out := &replayResult{
		Service: info.Service, Stream: info.Name, To: c.String("to"), First: p.First, Begin: p.Begin, End: p.End,
		Marks: append([]replay.Mark{}, p.Marks()...), DryRun: c.Bool("dry-run"),
	}
	if p.Base != nil {
		out.Base = p.Base.Name.String()
	}
	return out
}

// replayLine says how far a replay has come.
func replayLine(run *replay.Replay, plans []*replay.Plan, speed float64, elapsed time.Duration) string {
	p := run.Progress()
	if p.Waits && p.Records == 0 {
		return "waiting for the service"
	}
	s := elapsed.Seconds()
	line := fmt.Sprintf("%d records, %s of %s, %.0f records/s", p.Records, cli.Size(min(p.Bytes, p.Total)), cli.Size(p.Total), float64(p.Records)/s)
	var left time.Duration
	switch {
	case speed > 0 && p.Reached > 0:
		reached, end := time.Unix(0, p.Reached).UTC(), plans[0].End.Newest
		for _, one := range plans {
			if one.End.Newest.After(end) {
				end = one.End.Newest
			}
		}
		line += ", at " + reached.Format(time.RFC3339)
		left = time.Duration(float64(max(0, end.Sub(reached))) / speed)
	case speed == 0 && p.Bytes > 0:
		left = time.Duration(float64(max(0, p.Total-p.Bytes)) / float64(p.Bytes) * float64(elapsed))
	default:
		return line
	}
	if p.Waits {
		return line + ", waiting for the service"
	}
	return line + fmt.Sprintf(", about %s left", left.Round(time.Second))
}

// writeReplayPlans says what will be fed.
func writeReplayPlans(w io.Writer, all []*replayResult) error {
	var b strings.Builder
	for _, o := range all {
		state := "the log's beginning"
		if o.Base != "" {
			state = fmt.Sprintf("base %.12s", o.Base)
		}
		fmt.Fprintf(&b, "replay %s/%s to %s: state begins with %s, batches %d to %d, positions %s to %s, predicted %s\n",
			o.Service, o.Stream, o.To, state, uint64(o.Begin.Seq), uint64(o.End.Seq), o.First, o.End.Next, seconds(o.Predicted))
		for _, m := range o.Marks {
			fmt.Fprintf(&b, "  on record at %s: %s (%s)\n", m.Position, m.Digest, m.From)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// end notes what came of it.
func (o *replayResult) end(got *replay.Outcome) {
	o.Position, o.Records, o.Bytes, o.Took = &got.Position, &got.Records, &got.Bytes, new(got.Took.Seconds())
	o.Checked, o.Verdict, o.Why = got.Checked, got.Verdict, got.Why
	if !got.Newest.IsZero() {
		o.Newest = new(got.Newest.UTC())
	}
	if !got.Digest.IsZero() {
		o.Digest = got.Digest.String()
	}
}

// writeReplayed says what was fed, and what the state is.
func writeReplayed(w io.Writer, all []*replayResult) error {
	var b strings.Builder
	for _, o := range all {
		fmt.Fprintf(&b, "replayed %s/%s to %s: %d records, %s, in %s, predicted %s\n", o.Service, o.Stream, *o.Position, *o.Records, cli.Size(int64(*o.Bytes)), seconds(o.Took), seconds(o.Predicted)) //nolint:gosec // bytes of one log
		if o.Newest != nil {
			fmt.Fprintf(&b, "  newest record: %s\n", o.Newest.Format(time.RFC3339Nano))
		}
		digest := o.Digest
		if digest == "" {
			digest = cli.Unknown
		}
		fmt.Fprintf(&b, "  digest: %s\n", digest)
		for _, m := range o.Checked {
			verdict := "same"
			if m.Got != m.Digest {
				verdict = "DIFFERS, the service says " + m.Got.String()
			}
			fmt.Fprintf(&b, "  on record at %s: %s (%s): %s\n", m.Position, m.Digest, m.From, verdict)
		}
		fmt.Fprintf(&b, "  verdict: %s", o.Verdict)
		if o.Why != "" {
			fmt.Fprintf(&b, ": %s", o.Why)
		}
		fmt.Fprintln(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// replayVerdict is the error that the command ends with.
func replayVerdict(all []*replayResult) error {
	for _, o := range all {
		if o.Verdict == replay.Differs {
			return cli.WithCode(cli.Unverified, &tidegate.Error{
				Op: "replay", Subject: fmt.Sprintf("%s/%s", o.Service, o.Stream), Class: tidegate.Permanent, Err: errors.New(o.Why),
				Hint: "the record that parts them lies between this place and the one before it that was the same; replay to places in between, and to --digest of another replay",
			})
		}
	}
	for _, o := range all {
		if o.Verdict != replay.Same {
			return cli.WithCode(cli.UnknownState, &tidegate.Error{
				Op: "replay", Subject: fmt.Sprintf("%s/%s", o.Service, o.Stream), Class: tidegate.Permanent, Err: errors.New(o.Why),
				Hint: "--dry-run lists where digests are on record: end there, or compare with another replay by --digest",
			})
		}
	}
	return nil
}
