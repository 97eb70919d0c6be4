package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/client"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/journal"
)

// loadProc is the process of the lab's clients.
const loadProc = "load"

// Acked returns the file of acknowledged transfers.
func (l *Lab) Acked() string { return l.path("acknowledged.jsonl") }

func (l *Lab) countsFile() string { return l.path("load.json") }

// StartLoad starts clients that transfer through the route and write down every
// acknowledgement. args are more arguments of `ledger load`.
func (l *Lab) StartLoad(args ...string) error {
	// The counts go to a file of their own, so that they can be read when it has ended.
	full := append([]string{
		"/bin/sh", "-c", `exec "$0" "$@" >` + l.countsFile(), l.bin("ledger"), "load",
		"--url", l.Route(), "--acked", l.Acked(), "--json",
	}, args...)
	return l.start(loadProc, SiteWitness, full...)
}

// StopLoad ends the clients and returns what they counted.
func (l *Lab) StopLoad(grace time.Duration) (client.Counts, error) {
	l.Proc(loadProc).Stop(grace)
	var c client.Counts
	b, err := os.ReadFile(l.countsFile())
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read what the clients counted: %w\n%s", err, tail(l.Proc(loadProc).logPath, 12))
	}
	return c, nil
}

// Check compares what clients were told with what the service behind url holds.
// Transfers that are lost are in the report, not an error.
func (l *Lab) Check(ctx context.Context, url string) (client.Report, error) {
	return l.check(ctx, url, l.Acked())
}

func (l *Lab) check(ctx context.Context, url, acked string) (client.Report, error) {
	var r client.Report
	b, err := l.Command(ctx, l.bin("ledger"), "check", "--url", url, "--acked", acked, "--lost-max", "1000000000", "--json")
	if err != nil && len(b) == 0 {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read the check's report: %w", err)
	}
	return r, nil
}

var errEnough = errors.New("enough")

// ReplayTo replays a journal from its beginning up to position to, or, with 0,
// up to the record by which a new epoch branched off, and returns where it
// ended and the state's digest there. The journal's owner may be running.
func ReplayTo(dir string, c ledger.Currency, to tidegate.Position) (tidegate.Position, tidegate.Digest, error) {
	rd, err := journal.OpenReader(dir, 0)
	if err != nil {
		return 0, tidegate.Digest{}, err
	}
	defer rd.Close() //nolint:errcheck // only read
	state := ledger.New(c)
	limit := to
	if limit == 0 {
		limit = tidegate.Position(1<<63 - 1)
	}
	for at := tidegate.Position(0); at < limit; {
		raw, next, err := rd.Read(limit, 1<<20)
		if err != nil {
			return 0, tidegate.Digest{}, fmt.Errorf("replay %s: %w", dir, err)
		}
		if len(raw) == 0 {
			break
		}
		err = journal.Scan(raw, at, func(rec journal.Record) error {
			if rec.Kind == journal.KindBranch {
				if to == 0 {
					return errEnough
				}
				return state.Skip(rec.First, rec.Next)
			}
			_, err := state.Apply(rec.First, rec.Next, rec.Payload)
			return err
		})
		if errors.Is(err, errEnough) {
			return state.Position(), state.Digest(), nil
		}
		if err != nil {
			return 0, tidegate.Digest{}, fmt.Errorf("replay %s: %w", dir, err)
		}
		at = next
	}
	if to == 0 || state.Position() != to {
		return 0, tidegate.Digest{}, fmt.Errorf("replay %s: ended at %s, want %s", dir, state.Position(), to)
	}
	return state.Position(), state.Digest(), nil
}

// Tails returns the last n lines of each log of a lab in dir, for a failure's report.
func Tails(dir string, n int) string {
	logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log")) // the pattern is well-formed
	var b strings.Builder
	for _, f := range logs {
		fmt.Fprintf(&b, "== %s\n%s\n", filepath.Base(f), tail(f, n))
	}
	return b.String()
}

// LocalClients are clients of one machine, beside it: a site that is cut off
// still has them.
type LocalClients struct {
	Tail *AckTail

	lab   *Lab
	proc  *Proc
	acked string
}

// StartLocal starts clients at a machine's own site that know no other address.
func (l *Lab) StartLocal(machine string, args ...string) (*LocalClients, error) {
	m := l.machine(machine)
	acked := l.path("acknowledged-" + machine + ".jsonl")
	name := loadProc + "-" + machine
	full := append([]string{l.bin("ledger"), "load", "--url", l.HTTP(machine), "--acked", acked, "--json"}, args...)
	if err := l.start(name, m.site, full...); err != nil {
		return nil, err
	}
	return &LocalClients{Tail: &AckTail{path: acked}, lab: l, proc: l.Proc(name), acked: acked}, nil
}

// Check is the lab's Check of what these clients were told.
func (c *LocalClients) Check(ctx context.Context, url string) (client.Report, error) {
	return c.lab.check(ctx, url, c.acked)
}

// Stop ends the clients.
func (c *LocalClients) Stop(grace time.Duration) { c.proc.Stop(grace) }
