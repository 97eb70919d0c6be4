package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// digestPair is the state of one stream at the recovered end, computed twice:
// from what the lost primary wrote, and from what the DR site holds.
type digestPair struct {
	stream      string
	at          tidegate.Position
	primary, dr tidegate.Digest
}

// judge compares what clients were told with what the DR site holds.
func (r *result) judge(ctx context.Context, l *lab.Lab, s *stage) (err error) {
	s.say("comparing what clients were told with what the DR site holds")
	if r.check, err = l.Check(ctx, l.Route()); err != nil {
		return err
	}
	if err := r.compareStates(l); err != nil {
		return err
	}
	r.verdicts()
	return nil
}

// compareStates replays both sites' journals up to the fork.
func (r *result) compareStates(l *lab.Lab) error {
	target := r.plan.GetTarget().GetNode()
	for _, c := range ledger.Currencies() {
		fork, dr, err := lab.ReplayTo(l.Journal(target, c.String()), c, 0)
		if err != nil {
			return err
		}
		// The journals of the old site are byte-identical as far as they go; the
		// replicas were killed too, and may not have written what the writer had.
		var primary tidegate.Digest
		var short []error
		for _, node := range l.Primaries() {
			if _, primary, err = lab.ReplayTo(l.Journal(node, c.String()), c, fork); err == nil {
				break
			}
			short = append(short, err)
		}
		if len(short) == len(l.Primaries()) {
			return fmt.Errorf("no node of the old site holds %s up to %s: %w", c, fork, errors.Join(short...))
		}
		r.digests = append(r.digests, digestPair{stream: c.String(), at: fork, primary: primary, dr: dr})
	}
	return nil
}

// verdicts decides what did not hold.
func (r *result) verdicts() {
	demand := func(ok bool, format string, args ...any) {
		if !ok {
			r.broken = append(r.broken, fmt.Errorf("act %d: %s", r.act.number, fmt.Sprintf(format, args...)))
		}
	}
	demand(r.check.Acknowledged > 0, "nothing was acknowledged")
	demand(r.check.Sound, "the DR site's books are not sound")
	switch r.act.plant.Mode {
	case tidegate.ModeBounded:
		// K holds for each stream; the demo counts over all of them.
		k := uint64(r.act.plant.Bounds.Records) * uint64(len(lab.Currencies)) //nolint:gosec // small and positive
		demand(r.check.Lost <= k, "%d acknowledged transfers lost, the bound is %d", r.check.Lost, k)
	case tidegate.ModeSync, tidegate.ModeOpen:
		demand(r.check.Lost == 0, "%d acknowledged transfers lost in sync", r.check.Lost)
	}
	for _, d := range r.digests {
		demand(d.primary == d.dr, "%s: state at %s differs: primary %s, DR %s", d.stream, d.at, d.primary, d.dr)
	}
	demand(r.plan.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DONE, "the failover ended as %s", r.plan.GetOutcome())
	if m := measured(r.plan); r.act.thawed {
		demand(m.GetReleasedKnown(), "the old site does not know how many records of its tail it had acknowledged")
		// Among them are the gate's synthetic writes, which the clients' file does not list.
		demand(uint64(max(0, m.GetReleasedRecords())) >= r.check.Lost,
			"the old site counts %d acknowledged records in its tail, clients lost %d", m.GetReleasedRecords(), r.check.Lost)
	}
	for _, st := range r.plan.GetStreams() {
		loss := st.GetLoss()
		demand(loss.GetMeasured() == nil || !loss.GetMeasured().GetReleasedKnown() ||
			loss.GetKind() == pb.LossKind_LOSS_KIND_UNKNOWN ||
			loss.GetMeasured().GetReleasedRecords() <= loss.GetBounds().GetRecords(),
			"stream %s: measured loss of %d records exceeds the statement", st.GetName(), loss.GetMeasured().GetReleasedRecords())
	}
}

func report(out io.Writer, results []*result) {
	t := newTable(out, results)
	t.row("", func(r *result) string { return fmt.Sprintf("act %d, %s", r.act.number, r.act.plant.Mode) })
	t.row("acknowledged to clients", func(r *result) string { return fmt.Sprint(r.check.Acknowledged) })
	t.row("recovered", func(r *result) string { return fmt.Sprint(r.check.Recovered) })
	t.row("lost", func(r *result) string { return fmt.Sprint(r.check.Lost) })
	t.row("books sound, money conserved", func(r *result) string { return yesNo(r.check.Sound) })
	for i, c := range lab.Currencies {
		t.row("state digest at the fork, "+c, func(r *result) string {
			if i >= len(r.digests) {
				return "unknown"
			}
			d := r.digests[i]
			if d.primary != d.dr {
				return "DIFFERS"
			}
			return fmt.Sprintf("%.12s equal at both sites", d.dr)
		})
	}
	t.row("loss statement", func(r *result) string { return lossLine(r.plan.GetLoss()) })
	t.row("tail found at the old site", func(r *result) string { return measuredLine(r.plan) })
	t.row("RPO actual (acknowledged work lost)", func(r *result) string {
		return (time.Duration(r.check.LastLostMS-r.check.FirstLostMS) * time.Millisecond).String()
	})
	t.phases(func(r *result) *pb.Plan { return r.plan })
	t.row("RTO actual (first good client write)", func(r *result) string {
		if r.plan.GetPhases().GetRta() == nil {
			return "unknown"
		}
		return r.plan.GetPhases().GetRta().AsDuration().Round(time.Millisecond).String()
	})
	t.row("longest silence seen by the clients", func(r *result) string { return r.counts.Silence.Round(time.Millisecond).String() })
	t.end(func(r *result) []error { return r.broken })
}

func lossLine(l *pb.LossStatement) string {
	switch l.GetKind() {
	case pb.LossKind_LOSS_KIND_ZERO:
		return "zero, proven"
	case pb.LossKind_LOSS_KIND_AT_MOST:
		b := l.GetBounds()
		return fmt.Sprintf("at most %d records, %d bytes, %s", b.GetRecords(), b.GetBytes(), b.GetWindow().AsDuration())
	case pb.LossKind_LOSS_KIND_UNKNOWN, pb.LossKind_LOSS_KIND_UNSPECIFIED:
	}
	return "unknown: " + l.GetWhy()
}

func measuredLine(p *pb.Plan) string {
	m := measured(p)
	switch {
	case m == nil:
		return "not looked at: the site is gone"
	case !m.GetReleasedKnown():
		return fmt.Sprintf("%d records in quarantine, unknown how many were acknowledged", m.GetRecords())
	}
	return fmt.Sprintf("%d records in quarantine, %d of them acknowledged", m.GetRecords(), m.GetReleasedRecords())
}

// measured adds up what the streams' old writers found beyond the fork; nil if none has looked.
func measured(p *pb.Plan) *pb.MeasuredLoss {
	var sum *pb.MeasuredLoss
	for _, st := range p.GetStreams() {
		m := st.GetLoss().GetMeasured()
		if m == nil {
			continue
		}
		if sum == nil {
			sum = &pb.MeasuredLoss{ReleasedKnown: true}
		}
		sum.Records += m.GetRecords()
		sum.ReleasedRecords += m.GetReleasedRecords()
		sum.ReleasedKnown = sum.ReleasedKnown && m.GetReleasedKnown()
	}
	return sum
}
