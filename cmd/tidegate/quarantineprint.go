package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/quarantine"
)

// bundleView is a bundle as list and show print it; in JSON, null is unknown.
type bundleView struct {
	Name      string                `json:"name"`
	Path      string                `json:"path"`
	Kind      quarantine.Kind       `json:"kind,omitempty"`
	State     quarantine.State      `json:"state"`
	Damage    string                `json:"damage,omitempty"`
	Service   tidegate.ServiceName  `json:"service,omitempty"`
	Stream    tidegate.StreamName   `json:"stream,omitempty"`
	StreamID  *tidegate.StreamID    `json:"stream_id"`
	ID        *tidegate.ID          `json:"id,omitempty"` // under which the gate was told of it
	Reason    string                `json:"reason,omitempty"`
	Created   *time.Time            `json:"created"`
	CutEpoch  *tidegate.Epoch       `json:"cut_epoch"`
	Epochs    []tidegate.Epoch      `json:"written_epochs,omitempty"`
	Positions *quarantine.Positions `json:"positions"`
	Seqs      *quarantine.Seqs      `json:"seqs"`
	Batches   *int64                `json:"batches"`
	Records   *int64                `json:"records"`
	LogBytes  *int64                `json:"log_bytes"`
	Oldest    *time.Time            `json:"oldest"`
	Newest    *time.Time            `json:"newest"`
	Released  *quarantine.Released  `json:"released"`
	DiskBytes *int64                `json:"disk_bytes"`
	Note      string                `json:"note,omitempty"`
	Detail    json.RawMessage       `json:"detail,omitempty"`
	Next      []nextStep            `json:"next"`
}

// nextStep is a command for a person to run, and what for.
type nextStep struct {
	For     string `json:"for"`
	Command string `json:"command"`
}

func viewOf(b quarantine.Bundle) bundleView {
	v := bundleView{
		Name: b.Name, Path: b.Path, Kind: b.Kind, State: b.State, Damage: b.Damage,
		StreamID: orNil(b.StreamID), DiskBytes: b.Bytes, Next: nextSteps(b),
	}
	s := b.Summary
	if s == nil {
		return v
	}
	v.Service, v.Stream, v.ID, v.Reason, v.Note, v.Detail = s.Service, s.Stream, orNil(s.ID), s.Reason, s.Note, s.Detail
	v.Created, v.Oldest, v.Newest = orNil(s.Created), orNil(s.Oldest), orNil(s.Newest)
	v.CutEpoch, v.Epochs, v.Positions, v.Seqs = orNil(s.CutEpoch), s.WrittenEpochs, s.Positions, s.Seqs
	v.Batches, v.Records, v.LogBytes, v.Released = s.Batches, s.Records, s.Bytes, s.Released
	return v
}

// orNil is nil for a zero value, which says that something is not known.
func orNil[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// nextSteps are what can be done about a bundle, in this order. None of them is
// run here, and nothing in quarantine is ever removed but by a person.
func nextSteps(b quarantine.Bundle) (steps []nextStep) {
	path := shellQuote(b.Path)
	add := func(what, command string) { steps = append(steps, nextStep{what, command}) }
	if b.Summary != nil {
		for _, look := range b.Summary.Look {
			add("look into it", strings.ReplaceAll(look, quarantine.Here, path))
		}
	}
	switch {
	case b.State == quarantine.StateDamaged:
		add("see what is there", "ls -lR "+path)
	case b.State == quarantine.StateUnfinished:
		add("let its daemon make it anew; what it was of is where it was", "tidegate status")
		return steps // it is swept then
	case b.Kind == quarantine.KindLogAside:
		add("see that the node has its log again", "tidegate status")
	case b.Kind == quarantine.KindDataAside:
		add("see that the server made in its place follows", "tidegate status")
	case b.Kind == quarantine.KindBaseAside:
		add("see what the node says of it, and which bases it has", "tidegate doctor")
	case b.Kind == quarantine.KindTorn:
		add("look into it", "od -A d -c "+path+" | head")
	case lostTail(b.Summary):
		list := "tidegate plan list"
		if b.Summary.Service != "" {
			list += " --service " + string(b.Summary.Service)
		}
		add("find the change of roles that it was lost in, whose `plan show` counts it", list)
	}
	dir, base := shellQuote(filepath.Dir(b.Path)), shellQuote(filepath.Base(b.Path))
	add("keep a copy elsewhere", fmt.Sprintf("tar -C %s -czf /mnt/keep/%s.tar.gz %s", dir, base, base))
	add("then remove it, if nobody needs it any more", "rm -r "+path)
	return steps
}

// lostTail reports whether a bundle may hold what the stream lost: a node's own log
// is also cut of what was not certain, and of what the next writer had.
func lostTail(s *quarantine.Summary) bool {
	if s == nil {
		return false
	}
	switch s.Kind {
	case quarantine.KindJournalTail, quarantine.KindSourceTail, quarantine.KindServerTail:
		return true
	case quarantine.KindLogTail:
		return s.Reason == fence.ReasonDiverged
	default:
		return false
	}
}

// shellQuote is s as one word of a shell.
func shellQuote(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,@") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// streamText is whose bundle it is, as well as that is known.
func (v *bundleView) streamText() string {
	switch {
	case v.Service != "":
		return fmt.Sprintf("%s/%s", v.Service, v.Stream)
	case v.StreamID != nil:
		return v.StreamID.String()
	case v.Stream != "":
		return string(v.Stream)
	}
	return cli.Unknown
}

// or is s, or that it is not known.
func or(s string) string {
	if s == "" {
		return cli.Unknown
	}
	return s
}

func timeText(t *time.Time) string {
	if t == nil {
		return cli.Unknown
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// bundleTable prints many, and under them why some are damaged.
func bundleTable(views []bundleView) func(w io.Writer) error {
	return func(w io.Writer) error {
		if len(views) == 0 {
			_, err := fmt.Fprintln(w, "nothing is in quarantine")
			return err
		}
		table := cli.NewTable("name", "stream", "kind", "state", "why", "when", "from", "to", "records", "on disk")
		for _, v := range views {
			from, to, when := cli.Unknown, cli.Unknown, cli.Unknown
			if v.Positions != nil {
				from, to = v.Positions.First.String(), v.Positions.Next.String()
			}
			if v.Created != nil {
				when = v.Created.UTC().Format(time.RFC3339)
			}
			table.Row(v.Name, v.streamText(), or(string(v.Kind)), string(v.State), or(v.Reason), when, from, to, cli.Count(v.Records), cli.MaybeSize(v.DiskBytes))
		}
		if _, err := table.WriteTo(w); err != nil {
			return err
		}
		for _, v := range views {
			if v.Damage == "" {
				continue
			}
			if _, err := fmt.Fprintf(w, "%s: damaged: %s\n", v.Name, v.Damage); err != nil {
				return err
			}
		}
		return nil
	}
}

// write prints one.
func (v *bundleView) write(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	line("name", "%s", v.Name)
	line("path", "%s", v.Path)
	line("stream", "%s", v.streamText())
	if v.Service != "" && v.StreamID != nil {
		line("stream id", "%s", v.StreamID)
	}
	line("kind", "%s", or(string(v.Kind)))
	if v.Damage != "" {
		line("state", "%s: %s", v.State, v.Damage)
	} else {
		line("state", "%s", v.State)
	}
	line("why", "%s", or(v.Reason))
	if v.Note != "" {
		line("note", "%s", v.Note)
	}
	line("when", "%s", timeText(v.Created))
	if v.CutEpoch != nil {
		line("cut under", "epoch %s", v.CutEpoch)
	}
	if len(v.Epochs) > 0 {
		line("written", "under epoch %s", strings.Trim(fmt.Sprint(v.Epochs), "[]"))
	}
	if v.Positions != nil {
		line("positions", "from %s to %s (exclusive)", v.Positions.First, v.Positions.Next)
	} else {
		line("positions", "%s", cli.Unknown)
	}
	if v.Seqs != nil {
		line("batches", "%s, from %s to %s", cli.Count(v.Batches), v.Seqs.First, v.Seqs.Last)
	}
	line("records", "%s, %s of log", cli.Count(v.Records), cli.MaybeSize(v.LogBytes))
	line("of", "%s to %s", timeText(v.Oldest), timeText(v.Newest))
	if v.Released != nil {
		line("released", "%d records, %s", v.Released.Records, cli.Size(v.Released.Bytes))
	} else {
		line("released", "%s", cli.Unknown)
	}
	line("on disk", "%s", cli.MaybeSize(v.DiskBytes))
	for _, s := range v.Next {
		fmt.Fprintf(&b, "\n%s:\n    %s\n", s.For, s.Command)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
