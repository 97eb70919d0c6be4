package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/standby"
)

func baseCommand() *ucli.Command {
	return &ucli.Command{
		Name: "base", Usage: "the bases that this node keeps of a stream",
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "list them, oldest first, and which of them go, and why the others do not", ArgsUsage: "<stream-id>",
				Flags: []ucli.Flag{roleFileFlag("standby"), cli.OutputFlag()}, Action: listBases,
			},
			{
				Name: "refresh", Usage: "have the node that runs here take a new base of its warm service",
				Description: "The primary hears nothing of it. The other standby nodes take the new base from this one. The file `copy` of\n" +
					"the rates directory holds it back. How far it is, and why it failed, `tidegate status` and `tidegate doctor` say.",
				ArgsUsage: "<stream-id>",
				Flags: []ucli.Flag{
					roleFileFlag("standby"), cli.OutputFlag(),
					&ucli.BoolFlag{Name: "wait", Usage: "until it was tried; fail if there is no newer base then"},
				},
				Action: refreshBase,
			},
		},
	}
}

// baseResult is one base as list and refresh print it.
type baseResult struct {
	Generation tidegate.Generation `json:"generation"`
	Start      tidegate.Position   `json:"start"` // the log that follows begins here
	End        tidegate.Position   `json:"end"`   // consistent when the log was applied to here
	Taken      time.Time           `json:"taken"`
	Bytes      int64               `json:"bytes"` // of all files
	Files      int                 `json:"files"`
	Name       string              `json:"name"`
	// Fate is what the node last thought of it: whether it goes, and why or why not;
	// absent when it has not looked.
	Fate *standby.BaseFate `json:"fate,omitempty"`
}

// fate says it in a line.
func (b baseResult) fate() string {
	switch {
	case b.Fate == nil:
		return "the node has not looked yet"
	case b.Fate.Goes:
		return "goes: " + b.Fate.Why
	}
	return "stays: " + b.Fate.Why
}

func baseResultOf(l snapshot.Listed) baseResult {
	return baseResult{Generation: l.Generation, Start: l.Start, End: l.End, Taken: time.Unix(0, l.Taken).UTC(), Bytes: l.Bytes, Files: l.Files, Name: l.Name.String()}
}

// basesOf reads the arguments of a command about a stream's bases.
func basesOf(c *ucli.Context) (standbyFile, tidegate.StreamID, error) {
	args, err := cli.Args(c, "stream-id")
	if err != nil {
		return standbyFile{}, tidegate.StreamID{}, err
	}
	id, err := tidegate.ParseID(args[0])
	if err != nil {
		return standbyFile{}, id, cli.Usagef("%v", err)
	}
	f, err := config.Load[standbyFile](roleFile(c))
	return f, id, err
}

func listBases(c *ucli.Context) error {
	f, id, err := basesOf(c)
	if err != nil {
		return err
	}
	list, err := standby.ListBases(vfs.OS(), f.DataDir, id)
	if err != nil {
		return err
	}
	fates, err := standby.BaseFates(vfs.OS(), f.DataDir, id)
	if err != nil {
		return err
	}
	out := make([]baseResult, 0, len(list))
	for _, l := range list {
		b := baseResultOf(l)
		if fate, known := fates[b.Name]; known {
			b.Fate = &fate
		}
		out = append(out, b)
	}
	return cli.Print(c, out, func(w io.Writer) error {
		table := cli.NewTable("generation", "start", "end", "taken", "size", "files", "name", "fate")
		for _, b := range out {
			table.Row(fmt.Sprint(b.Generation), b.Start.String(), b.End.String(), b.Taken.Format(time.RFC3339), cli.Size(b.Bytes), fmt.Sprint(b.Files), b.Name[:12], b.fate())
		}
		_, err := table.WriteTo(w)
		return err
	})
}

// refreshResult is what refresh prints.
type refreshResult struct {
	Stream tidegate.StreamID `json:"stream"`
	Base   *baseResult       `json:"base,omitempty"` // with --wait
}

func refreshBase(c *ucli.Context) error {
	f, id, err := basesOf(c)
	if err != nil {
		return err
	}
	before, err := standby.ListBases(vfs.OS(), f.DataDir, id)
	if err == nil {
		err = standby.AskRefresh(vfs.OS(), f.DataDir, id)
	}
	if err != nil {
		return err
	}
	if !c.Bool("wait") {
		return cli.Print(c, refreshResult{Stream: id}, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, "asked; the node takes it up when it has a warm service that follows")
			return err
		})
	}
	made, err := awaitRefresh(c.Context, f, id, before)
	if err != nil {
		return err
	}
	b := baseResultOf(made)
	return cli.Print(c, refreshResult{id, &b}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "base of generation %d from %s on, %s\n", b.Generation, b.Start, cli.Size(b.Bytes))
		return err
	})
}

// refreshLookEvery is how often the command looks whether the node has tried.
const refreshLookEvery = 200 * time.Millisecond

// awaitRefresh waits until the node has tried, and returns what it made.
func awaitRefresh(ctx context.Context, f standbyFile, id tidegate.StreamID, before []snapshot.Listed) (snapshot.Listed, error) {
	tick := time.NewTicker(refreshLookEvery)
	defer tick.Stop()
	for {
		asked, err := standby.RefreshAsked(vfs.OS(), f.DataDir, id)
		if err != nil {
			return snapshot.Listed{}, err
		}
		if !asked {
			break
		}
		select {
		case <-ctx.Done():
			return snapshot.Listed{}, ctx.Err()
		case <-tick.C:
		}
	}
	after, err := standby.ListBases(vfs.OS(), f.DataDir, id)
	if err != nil {
		return snapshot.Listed{}, err
	}
	had := map[snapshot.Name]bool{}
	for _, l := range before {
		had[l.Name] = true
	}
	for _, l := range after {
		if !had[l.Name] {
			return l, nil
		}
	}
	return snapshot.Listed{}, &tidegate.Error{
		Op: "renew base of", Subject: id.String(), Class: tidegate.Transient, Err: errors.New("no newer one was made"),
		Hint: "the node's log and `tidegate doctor` say why; a standby's redo follows the primary's checkpoints",
	}
}
