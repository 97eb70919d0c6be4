package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/cli"
	"github.com/tidegate/tidegate/internal/config"
)

// statusTimeout is long for a loopback address: an agent that takes longer hangs.
const statusTimeout = 5 * time.Second

func statusCommand() *ucli.Command {
	return &ucli.Command{
		Name:      "status",
		Usage:     "ask the agent on this machine",
		ArgsUsage: " ",
		Flags:     []ucli.Flag{configFlag(), cli.OutputFlag()},
		Action:    status,
	}
}

func status(c *ucli.Context) error {
	if _, err := cli.Args(c); err != nil {
		return err
	}
	cfg, err := config.Load[agent.Config](c.String("config"))
	if err != nil {
		return err
	}
	st, err := fetch(c, cfg.Listen)
	if err != nil {
		return err
	}
	if err := cli.Print(c, st, func(w io.Writer) error { return write(w, st) }); err != nil {
		return err
	}
	return cli.Exit(codeOf(st))
}

func fetch(c *ucli.Context, addr string) (st agent.Status, err error) {
	fail := func(class tidegate.Class, err error) (agent.Status, error) {
		return agent.Status{}, &tidegate.Error{
			Op: "agent status", Subject: addr, Class: class, Err: err,
			Hint: "is the agent running? systemctl status tidegate-agent",
		}
	}
	req, err := http.NewRequestWithContext(c.Context, http.MethodGet, "http://"+addr+"/status", http.NoBody)
	if err != nil {
		return fail(tidegate.Misuse, err)
	}
	client := &http.Client{Timeout: statusTimeout}
	res, err := client.Do(req)
	if err != nil {
		return fail(tidegate.Transient, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fail(tidegate.Permanent, fmt.Errorf("answered %s", res.Status))
	}
	if err := json.NewDecoder(res.Body).Decode(&st); err != nil {
		return fail(tidegate.Permanent, err)
	}
	return st, nil
}

// codeOf is 12 when the agent cannot say what a disaster would cost: no gate,
// no library, or a stream in error.
func codeOf(st agent.Status) cli.Code {
	if !st.GateReached {
		return cli.UnknownState
	}
	for _, s := range st.Streams {
		if s.Error != "" || s.Finding != "" || s.Writer != nil && !s.Writer.Exposure.Known {
			return cli.UnknownState
		}
	}
	return cli.OK
}

func write(w io.Writer, st agent.Status) error {
	gate := "gate " + st.Gate + " answers"
	if !st.GateReached {
		gate = "no gate answers (" + st.GateError + "); streams flow on, a restart of the writer waits"
	}
	fmt.Fprintf(w, "agent %s at %s, %s; %s\n", st.Node, st.Site, st.Version, gate)
	table := cli.NewTable("stream", "state", "epoch", "library", "head", "durable", "exposed", "age", "relay", "notes")
	for _, s := range st.Streams {
		library, head, durable, exposed, age, relay := "absent", cli.Unknown, "", "", "", ""
		switch {
		case s.ServiceActive:
			library = "active"
		case s.LibraryConnected:
			library = "following"
		}
		if s.HeadKnown {
			head = fmt.Sprint(uint64(s.Head))
		}
		if x := s.Writer; x != nil {
			durable, relay = fmt.Sprintf("%d (batch %d)", uint64(x.Durable), uint64(x.DurableSeq)), string(x.Relay)
			if x.Proving {
				durable = cli.Unknown
			}
			exposed, age = cli.Unknown, cli.Unknown
			if x.Exposure.Known {
				exposed = fmt.Sprintf("%d rec, %s", x.Exposure.Records, cli.Size(x.Exposure.Bytes))
				age = cli.Span(x.Exposure.Age)
			}
		}
		notes := s.Waiting
		if s.Writer != nil {
			notes = gateNotes(s.Writer)
		}
		if s.Error != "" {
			notes = s.Error
		}
		if s.Finding != "" {
			notes = s.Finding
		}
		if o := s.Observer; o != nil && o.Diverged != "" {
			notes = fmt.Sprintf("diverged at batch %d: %s", uint64(o.DivergedSeq), o.Diverged)
		}
		table.Row(fmt.Sprintf("%s/%s", s.Service, s.Stream), string(s.State), fmt.Sprint(uint64(s.Epoch)), library, head, durable, exposed, age, relay, notes)
	}
	if _, err := table.WriteTo(w); err != nil {
		return err
	}
	for i := range st.Streams {
		writeFindings(w, &st.Streams[i])
	}
	for i := range st.Rates.Rates {
		r := &st.Rates.Rates[i]
		if r.Limit != nil {
			fmt.Fprintf(w, "rate %s: %s, by %s/%s; %d waiting\n", r.Name, r.Text(), st.Rates.Dir, r.Name, r.Waiting)
		}
		if r.Error != "" {
			fmt.Fprintf(w, "rate %s: file not usable, %s stays: %s\n", r.Name, r.Text(), r.Error)
		}
	}
	for _, name := range st.Rates.Unknown {
		fmt.Fprintf(w, "%s/%s: no daemon obeys a rate of that name\n", st.Rates.Dir, name)
	}
	if p := st.Pauses; p.Count > 0 {
		fmt.Fprintf(w, "did not run %d times, %s in all, %s at most, last until %s\n", p.Count, cli.Span(p.Total), cli.Span(p.Longest), p.Last.UTC().Format(time.RFC3339))
	}
	return nil
}

// writeFindings says what the stream's library has found, beyond what stands in the
// notes, with what to do.
func writeFindings(w io.Writer, s *agent.StreamStatus) {
	for _, f := range s.Findings {
		if f.Name != "" {
			fmt.Fprintf(w, "%s/%s: %s: %s: %s\n", s.Service, s.Stream, f.Severity, f.Name, f.Text)
		}
		if f.Hint != "" {
			fmt.Fprintf(w, "  next: %s\n", f.Hint)
		}
	}
}

// gateNotes says what an operator must know of a stream that is being written:
// first what keeps it from its promise, then what holds it up.
func gateNotes(x *agent.WriterStatus) string {
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	switch x.Gate.Record {
	case fence.GateDegraded:
		add("DEGRADED on record since batch %d: outputs go on unprotected", uint64(x.Gate.SinceSeq))
	case fence.GateBlindOK:
		add("BLIND_OK on record: may go on unprotected without being asked, no zero-loss claim")
	case fence.GateUnknown:
		add("gate not on record yet")
	case fence.GateArmed:
	}
	if x.Gate.Brake != "" {
		add("opened by hand (%s)", x.Gate.Brake)
	}
	if x.Gate.Known && x.Gate.State != "flowing" && x.Gate.State != "degraded" {
		add("%s for %s", x.Gate.State, cli.Span(x.Gate.StateAge))
	}
	if l := x.Lease; l != nil && l.Remaining == 0 {
		add("no output lease: %s", cmp.Or(l.Error, "not granted yet"))
	} else if l != nil && l.By == "nodes" {
		add("output lease by the standby nodes, no gate answers")
	}
	if h := x.Handover; h != nil {
		add("handing over to %s", h.To)
	}
	if b := x.Base; b != nil && b.Total > 0 {
		add("base on its way to %s: %s of %s", b.To, cli.Size(b.Bytes), cli.Size(b.Total))
	} else if b != nil {
		add("base on its way to %s: %s", b.To, cli.Size(b.Bytes))
	}
	return strings.Join(notes, "; ")
}
