package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"connectrpc.com/connect"
	ucli "github.com/urfave/cli/v2"

	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
)

func ratesCommand() *ucli.Command {
	dir := &ucli.StringFlag{Name: "dir", Value: rates.DefaultDir, Usage: "`DIR` that this machine's daemons look at (their rates_dir)"}
	return &ucli.Command{
		Name:  "rates",
		Usage: "the brakes that work without any gate: files that limit what this machine's daemons do",
		Description: "`echo 0 > " + rates.DefaultDir + "/ship` does the same as `tidegate rates set ship 0`: a daemon obeys\n" +
			"within a quarter of a second. list also asks the gates what every node's daemons obey.",
		Flags:  operatorFlags(cli.OutputFlag(), dir),
		Action: ratesList,
		Subcommands: []*ucli.Command{
			{
				Name: "list", Usage: "the same as rates alone, said in full", ArgsUsage: " ",
				Flags: operatorFlags(cli.OutputFlag(), dir), Action: ratesList,
			},
			{
				Name: "set", Usage: "limit NAME to VALUE a second on this machine; 0 stops it", ArgsUsage: "NAME VALUE",
				Description: "VALUE is a number, or for bytes a size such as 50MiB.",
				Flags:       []ucli.Flag{dir}, Action: ratesSet,
			},
			{
				Name: "lift", Usage: "take the limit NAME off on this machine", ArgsUsage: "NAME",
				Flags: []ucli.Flag{dir}, Action: ratesLift,
			},
		},
	}
}

// rateRow is one limit of one place.
type rateRow struct {
	Node    string     `json:"node,omitempty"` // empty: the files of this machine
	Daemon  string     `json:"daemon"`
	Name    string     `json:"name"`
	Unit    rates.Unit `json:"unit"`
	Limit   *int64     `json:"limit,omitempty"` // absent for no limit, 0 stops
	Error   string     `json:"error,omitempty"`
	Meaning string     `json:"meaning,omitempty"`
}

// ratesView is what `rates list` shows.
type ratesView struct {
	Dir   string    `json:"dir"`
	Files []rateRow `json:"files"`
	// Unknown are files of a name that no daemon obeys: misspelt, mostly.
	Unknown []string  `json:"unknown_files,omitempty"`
	Nodes   []rateRow `json:"nodes,omitempty"`
	Gate    string    `json:"gate_error,omitempty"` // why no gate could be asked about the other nodes
}

func ratesList(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	view := ratesView{Dir: c.String("dir")}
	for _, l := range rates.All() {
		row := rateRow{Daemon: l.Daemon, Name: l.Name, Unit: l.Unit, Meaning: l.Meaning}
		value, limited, err := rates.Look(view.Dir, l)
		switch {
		case err != nil:
			row.Error = err.Error()
		case limited:
			row.Limit = &value
		}
		view.Files = append(view.Files, row)
	}
	view.Unknown = misspelt(view.Dir)
	// These files are for the day on which no gate answers: that is a remark, not a failure.
	if err := view.ask(c); err != nil {
		view.Gate = err.Error()
	}
	return cli.Print(c, view, func(w io.Writer) error { return view.write(w) })
}

// misspelt are files in dir that no daemon obeys, by the daemons' own judgement.
func misspelt(dir string) []string {
	r := rates.New(dir, clock.System(), slog.New(slog.DiscardHandler), rates.All())
	r.Read()
	return r.Status().Unknown
}

// ask adds what every node's daemons say they obey. Without an operator's file
// there is nobody to ask.
func (v *ratesView) ask(c *ucli.Context) error {
	o, err := newOperator(c)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("no operator's file here, so no gate was asked about other nodes")
	}
	if err != nil {
		return err
	}
	var st *pb.StatusResponse
	err = o.do(c.Context, "ask for rates", "", func(gate client) error {
		res, err := gate.Status(c.Context, connect.NewRequest(&pb.StatusRequest{}))
		if err == nil {
			st = res.Msg
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, a := range st.GetAgents() {
		v.add(a.GetNode(), rates.DaemonAgent, a.GetReport().GetRates())
	}
	for _, s := range st.GetStandbys() {
		v.add(s.GetNode().GetNode(), rates.DaemonStandby, s.GetReport().GetRates())
	}
	return nil
}

func (v *ratesView) add(node, daemon string, list []*pb.Rate) {
	for _, r := range list {
		row := rateRow{Node: node, Daemon: daemon, Name: r.GetName(), Unit: rates.Unit(r.GetUnit()), Error: r.GetError()}
		if r.Limit != nil {
			n := int64(r.GetLimit())
			row.Limit = &n
		}
		v.Nodes = append(v.Nodes, row)
	}
}

func (r rateRow) text() string {
	if r.Limit == nil {
		return r.Unit.Text(0, false)
	}
	return r.Unit.Text(*r.Limit, true)
}

func (v *ratesView) write(w io.Writer) error {
	fmt.Fprintln(w, "files in", v.Dir)
	files := cli.NewTable("rate", "limit", "daemon", "what it limits", "error")
	for _, r := range v.Files {
		files.Row(r.Name, r.text(), r.Daemon, r.Meaning, r.Error)
	}
	if _, err := files.WriteTo(w); err != nil {
		return err
	}
	for _, name := range v.Unknown {
		fmt.Fprintf(w, "%s is obeyed by no daemon: misspelt?\n", name)
	}
	if v.Gate != "" {
		_, err := fmt.Fprintf(w, "\nother nodes are unknown: %s\n", v.Gate)
		return err
	}
	nodes := cli.NewTable("node", "daemon", "rate", "obeys", "error")
	free := 0
	for _, r := range v.Nodes {
		if r.Limit == nil && r.Error == "" {
			free++
			continue
		}
		nodes.Row(r.Node, r.Daemon, r.Name, r.text(), r.Error)
	}
	fmt.Fprintln(w)
	if _, err := nodes.WriteTo(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d of the %d rates that all nodes report have no limit\n", free, len(v.Nodes))
	return err
}

func limitNamed(name string) (rates.Limit, error) {
	var names []string
	for _, l := range rates.All() {
		if l.Name == name {
			return l, nil
		}
		names = append(names, l.Name)
	}
	return rates.Limit{}, cli.Usagef("rate %q: want one of %s", name, strings.Join(names, ", "))
}

func ratesSet(c *ucli.Context) error {
	args, err := cli.Args(c, "NAME", "VALUE")
	if err != nil {
		return err
	}
	l, err := limitNamed(args[0])
	if err != nil {
		return err
	}
	value, err := l.Unit.Parse(args[1])
	if err != nil {
		return cli.Usagef("rate %s: %w", l.Name, err)
	}
	if err := rates.Set(vfs.OS(), c.String("dir"), l, value); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: %s, obeyed by the %s of this machine within %s\n", l.Name, l.Unit.Text(value, true), l.Daemon, cli.Span(rates.PollEvery))
	return err
}

func ratesLift(c *ucli.Context) error {
	args, err := cli.Args(c, "NAME")
	if err != nil {
		return err
	}
	l, err := limitNamed(args[0])
	if err != nil {
		return err
	}
	if err := rates.Lift(vfs.OS(), c.String("dir"), l); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s: no limit\n", l.Name)
	return err
}
