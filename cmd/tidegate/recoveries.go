package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	cold "github.com/tidegate/tidegate/archive/restore"
	"github.com/tidegate/tidegate/archive/restore/past"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/stores/journal/replay"
)

func recoveriesFlag() ucli.Flag {
	return &ucli.StringFlag{
		Name: "recoveries", Usage: "`FILE` that keeps what restores and replays took on this machine, by which the next one is predicted; none: no prediction by it, and nothing is kept",
		DefaultText: "$XDG_STATE_HOME/tidegate/recoveries.json, else below ~/.local/state",
	}
}

// recoveries are those of this machine. What keeps them from being read or kept is said,
// and keeps nobody from recovering.
type recoveries struct {
	all  past.Recoveries
	path string // empty: nothing is kept
	errs io.Writer
}

func openRecoveries(c *ucli.Context) *recoveries {
	r := &recoveries{errs: c.App.ErrWriter}
	var err error
	if r.path, err = recoveriesPath(c.String("recoveries")); err == nil && r.path != "" {
		r.all, err = past.Read(vfs.OS(), r.path)
	}
	if err != nil {
		r.path = ""
		r.say("not predicted by what recoveries took before, and this one is not kept", err)
	}
	return r
}

func recoveriesPath(flag string) (string, error) {
	if flag == "none" {
		return "", nil
	}
	if flag != "" {
		return filepath.Abs(flag)
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(dir) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", &tidegate.Error{Op: "find recoveries", Class: tidegate.Misuse, Err: err, Hint: "--recoveries names a file, or none"}
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "tidegate", "recoveries.json"), nil
}

// say is for errors that nothing waits for; its own is nobody's.
func (r *recoveries) say(what string, err error) {
	text := fmt.Sprintf("%s: %v", what, err)
	if hint := tidegate.HintOf(err); hint != "" {
		text += " (" + hint + ")"
	}
	_, _ = fmt.Fprintln(r.errs, text) // to stderr, of which nobody can be told
}

// keep notes what a recovery took.
func (r *recoveries) keep(one past.Recovery) {
	if r.path == "" {
		return
	}
	if err := past.Keep(vfs.OS(), r.path, one); err != nil {
		r.say("what this took is not kept", err)
	}
}

// restorePredicted is how long a recovery will take, in seconds; null: not known.
type restorePredicted struct {
	Predicted       *float64 `json:"predicted_s"`          // until it is restored
	PredictedBy     *int     `json:"predicted_by"`         // recoveries of this machine; 0: a sample of the archive
	Replay          int64    `json:"replay_bytes"`         // of log that the service, or the server, replays when it starts
	ReplayPredicted *float64 `json:"replay_predicted_s"`   // until it has
	ReplayBy        *int     `json:"replay_predicted_by"`  // recoveries
	Recovery        *float64 `json:"recovery_predicted_s"` // both
}

func (p *restorePredicted) predict(ctx context.Context, clk clock.Clock, plan *cold.Plan, all past.Recoveries) error {
	said, err := plan.Predict(ctx, clk, all)
	if err != nil {
		return err
	}
	p.Replay = plan.ReplayBytes()
	if one := said.Restore; one.Known {
		p.Predicted, p.PredictedBy = new(one.Took.Seconds()), new(one.By)
	}
	if one := said.Replay; one.Known {
		p.ReplayPredicted, p.ReplayBy = new(one.Took.Seconds()), new(one.By)
	}
	if p.Predicted != nil && p.ReplayPredicted != nil {
		p.Recovery = new(*p.Predicted + *p.ReplayPredicted)
	}
	return nil
}

// text says it for people.
func (p *restorePredicted) text(store string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "predicted: %s", seconds(p.Predicted))
	switch {
	case p.PredictedBy == nil:
	case *p.PredictedBy == 0:
		fmt.Fprint(&b, ", by a sample of the archive: nothing like it was restored on this machine yet")
	default:
		fmt.Fprintf(&b, ", by %d restores on this machine", *p.PredictedBy)
	}
	fmt.Fprintf(&b, "\n%s", p.replayText(store))
	return b.String()
}

func (p *restorePredicted) replayText(store string) string {
	who, how := "its service", "no `tidegate replay` of it was measured on this machine"
	if store != journalKind {
		who, how = "its server", "no `restore --start` of it was measured on this machine"
	}
	text := fmt.Sprintf("%s replays %s of log when it starts: predicted %s", who, cli.Size(p.Replay), seconds(p.ReplayPredicted))
	switch {
	case p.ReplayBy == nil:
		text += ", " + how
	case *p.ReplayBy > 0:
		text += fmt.Sprintf(", by %d on this machine; in all %s", *p.ReplayBy, seconds(p.Recovery))
	}
	return text + "\n"
}

// predictReplay says how long a service will be fed; nil: it is not known.
func predictReplay(p *replay.Plan, all past.Recoveries) *float64 {
	want := past.Recovery{Stream: p.Stream.Info.Stream, Parts: map[past.Part]past.Timing{past.Replay: {Bytes: p.Bytes}}}
	took, _, known := all.Predict(&want)
	if !known {
		return nil
	}
	return new(took.Seconds())
}

func replayTook(s *archive.Stream, ended time.Time, got *replay.Outcome) past.Recovery {
	return past.Recovery{
		Ended: ended.UTC(), Archive: s.String(), Store: s.Info.Store, Stream: s.Info.Stream,
		Parts: map[past.Part]past.Timing{past.Replay: {Bytes: int64(got.Bytes), Took: got.Took}}, //nolint:gosec // bytes of one log
	}
}
