package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
	"github.com/tidegate/tidegate/journal"
)

// beyond is how far a stream's acknowledgements had gone beyond the fork, by the
// clients' file and the journals of the site that was lost.
type beyond struct {
	stream  string
	fork    tidegate.Position
	records int64
	bytes   int64
}

// digests is the state of a stream at the fork, computed at both sites.
type digests struct {
	stream      string
	primary, dr tidegate.Digest
}

func (p *play) epochOf(c ledger.Currency) tidegate.Epoch {
	for _, s := range p.plan.GetStreams() {
		if s.GetName() == c.String() {
			return tidegate.Epoch(s.GetEpoch())
		}
	}
	return 0
}

// measure compares both sites at the fork. It runs while the primary site is
// still killed or frozen: its journals do not move.
func (p *play) measure() error {
	target := p.plan.GetTarget().GetNode()
	for _, c := range ledger.Currencies() {
		fork, dr, err := lab.ReplayTo(p.lab.Journal(target, c.String()), c, 0)
		if err != nil {
			return err
		}
		d := digests{stream: c.String(), dr: dr}
		b := beyond{stream: c.String(), fork: fork}
		acked, any := p.acks.Highest(c, p.epochOf(c))
		any = any && acked >= fork
		var short []error
		for _, m := range p.lab.Primaries() {
			dir := p.lab.Journal(m, c.String())
			_, digest, err := lab.ReplayTo(dir, c, fork)
			if err == nil && any {
				err = b.count(dir, acked)
			}
			if err == nil {
				d.primary, short = digest, nil
				break
			}
			short = append(short, err)
		}
		if short != nil {
			return fmt.Errorf("no node of the lost site has all that clients were told of %s: %w", c, errors.Join(short...))
		}
		p.digests, p.beyond = append(p.digests, d), append(p.beyond, b)
	}
	return nil
}

// count counts the records of a journal from the fork up to and with the one at last.
func (b *beyond) count(dir string, last tidegate.Position) error {
	rd, err := journal.OpenReader(dir, b.fork)
	if err != nil {
		return err
	}
	defer rd.Close() //nolint:errcheck // only read
	b.records, b.bytes = 0, 0
	for at := b.fork; at <= last; {
		raw, next, err := rd.Read(1<<63-1, 1<<20)
		if err != nil {
			return err
		}
		if len(raw) == 0 {
			return fmt.Errorf("journal %s ends at %s, a client was told of %s", dir, at, last)
		}
		if err := journal.Scan(raw, at, func(r journal.Record) error {
			if r.First <= last {
				b.records++
				b.bytes = int64(r.Next - b.fork) //nolint:gosec // far below
			}
			return nil
		}); err != nil {
			return err
		}
		at = next
	}
	return nil
}

// judge reads the standby nodes' logs and decides what did not hold.
func (p *play) judge(ctx context.Context) error {
	scratch, err := os.MkdirTemp(p.plant.Dir, "read-")
	if err != nil {
		return err
	}
	streams, err := filepath.Glob(filepath.Join(p.plant.Dir, p.lab.Standbys()[0], "standby", "streams", "*"))
	if err != nil {
		return err
	}
	p.demand(len(streams) == len(lab.Currencies), "%s keeps %d streams, want %d", p.lab.Standbys()[0], len(streams), len(lab.Currencies))
	for _, s := range streams {
		var logs []lab.Chain
		for _, node := range p.lab.Standbys() {
			id := filepath.Base(s)
			c, err := lab.ReadLog(ctx, filepath.Join(p.plant.Dir, node, "standby", "streams", id), filepath.Join(scratch, node+"-"+id), node)
			p.demand(err == nil, "stream %s: %v", id, err)
			if err == nil {
				logs = append(logs, c)
			}
		}
		for i := range logs {
			p.longest, p.epochs = max(p.longest, len(logs[i].Chains)), max(p.epochs, logs[i].Epochs)
			err := logs[0].Differ(logs[i])
			p.demand(err == nil, "stream %s: %v", filepath.Base(s), err)
		}
	}
	p.verdicts()
	return os.RemoveAll(scratch)
}

func (p *play) demand(ok bool, format string, args ...any) {
	if !ok {
		p.broken = append(p.broken, fmt.Errorf(format, args...))
	}
}

// verdicts decides about everything but the logs.
func (p *play) verdicts() {
	bounds := p.plant.Bounds
	_, samples, passed := p.witness.Seen()
	for _, why := range passed {
		p.demand(false, "%s", why)
	}
	p.demand(samples > 0, "no agent ever knew its exposure")
	p.demand(p.check.Acknowledged > 0, "nothing was acknowledged")
	p.demand(p.check.Sound, "the books are not sound: %d moved, %d doubled", p.check.Moved, p.check.Doubled)
	p.demand(p.check.Acknowledged == p.counts.Acknowledged, "clients count %d acknowledgements, their file has %d", p.counts.Acknowledged, p.check.Acknowledged)
	var may uint64
	for _, b := range p.beyond {
		p.demand(b.records <= bounds.Records, "stream %s: acknowledged %d records beyond the fork at %s, the bound is %d", b.stream, b.records, b.fork, bounds.Records)
		p.demand(b.bytes <= bounds.Bytes, "stream %s: acknowledged %d bytes beyond the fork at %s, the bound is %d", b.stream, b.bytes, b.fork, bounds.Bytes)
		may += uint64(max(0, b.records))
	}
	// Every lost transfer is a record beyond the fork, which is within K.
	p.demand(p.check.Lost <= may, "%d acknowledged transfers lost, at most %d may be", p.check.Lost, may)
	p.demand(p.lostOver() <= bounds.Window+ackDelay, "acknowledged transfers were lost over %s by the clients' clock, the window is %s", p.lostOver(), bounds.Window)
	for _, d := range p.digests {
		p.demand(d.primary == d.dr, "stream %s: the state at the fork differs: primary %s, DR %s", d.stream, d.primary, d.dr)
	}
	if p.plan != nil {
		p.planVerdicts()
	}
}

// ackDelay is by how much the clients' clock may stretch the loss window: an
// answer that was released in time still has to be written, proxied and read, by
// processes that share two cores with all the others.
const ackDelay = 500 * time.Millisecond

// lostOver is the span of the lost acknowledgements by the clients' clock.
func (p *play) lostOver() time.Duration {
	return time.Duration(p.check.LastLostMS-p.check.FirstLostMS) * time.Millisecond
}

func (p *play) planVerdicts() {
	p.demand(p.plan.GetOutcome() == pb.PlanOutcome_PLAN_OUTCOME_DONE, "the failover ended as %s", p.plan.GetOutcome())
	p.demand(p.plan.GetPhases().GetRta() != nil, "the failover does not know when clients were served again")
	var released uint64
	known := p.round.disaster == frozen
	for _, st := range p.plan.GetStreams() {
		loss := st.GetLoss()
		switch loss.GetKind() {
		case pb.LossKind_LOSS_KIND_ZERO:
			for _, b := range p.beyond {
				p.demand(b.stream != st.GetName() || b.records == 0, "stream %s: stated as without loss, %d records were acknowledged beyond the fork", b.stream, b.records)
			}
		case pb.LossKind_LOSS_KIND_AT_MOST:
		case pb.LossKind_LOSS_KIND_UNKNOWN, pb.LossKind_LOSS_KIND_UNSPECIFIED:
			p.demand(false, "stream %s: the loss is %s: %s", st.GetName(), loss.GetKind(), loss.GetWhy())
		}
		if m := loss.GetMeasured(); m != nil {
			known = known && m.GetReleasedKnown()
			released += uint64(max(0, m.GetReleasedRecords()))
		} else {
			known = false
		}
	}
	if p.round.disaster == frozen {
		p.demand(known, "the old writer does not know how many records of its tail it had acknowledged")
		p.demand(!known || released >= p.check.Lost, "the old writer counts %d acknowledged records in its tail, clients lost %d", released, p.check.Lost)
	}
}

// line is the round in one line.
func (p *play) line() string {
	most, samples, _ := p.witness.Seen()
	b := p.plant.Bounds
	s := fmt.Sprintf("round %d %-7s %s: %d kills, %d acknowledged, %d recovered, %d lost; exposed at most %.0f of %d records, %.0f of %d bytes, %s of %s (%d samples)",
		p.round.number, p.round.mode, p.ended(), p.kills, p.check.Acknowledged, p.check.Recovered, p.check.Lost,
		most.Records, b.Records, most.Bytes, b.Bytes, time.Duration(most.Window*float64(time.Second)).Round(time.Millisecond), b.Window, samples)
	for _, x := range p.beyond {
		if b.Records > 0 {
			s += fmt.Sprintf("; %s %d records and %d bytes beyond the fork", x.stream, x.records, x.bytes)
		}
	}
	if p.check.Lost > 0 {
		s += fmt.Sprintf("; lost over %s", p.lostOver())
	}
	for _, h := range p.handovers {
		s += fmt.Sprintf("; handover: writer %s, first acknowledgement %s", h.writer.Round(time.Millisecond), h.ack.Round(time.Millisecond))
	}
	if r := p.plan.GetPhases().GetRta(); r != nil {
		s += fmt.Sprintf("; RTO %s", r.AsDuration().Round(time.Millisecond))
	}
	return s + fmt.Sprintf("; %d epochs in %d batches; %s", p.epochs, p.longest, p.took.Round(100*time.Millisecond))
}

func (p *play) ended() string {
	switch {
	case p.plan == nil:
		return "handed over"
	case p.round.missing != "":
		return string(p.round.disaster) + " without " + p.round.missing
	}
	return string(p.round.disaster)
}
