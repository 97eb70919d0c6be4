package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/agent"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/lab"
)

// handover is how the role of the writer went from a machine that died to another.
type handover struct {
	from, to string
	epoch    tidegate.Epoch // of the new writer
	writer   time.Duration  // from the kill until the new agent's log was proven and it wrote
	ack      time.Duration  // from the kill until a client was answered under the new epoch
}

func (h handover) String() string {
	return fmt.Sprintf("%s to %s in epoch %d: writer after %s, first acknowledgement after %s",
		h.from, h.to, h.epoch, h.writer.Round(time.Millisecond), h.ack.Round(time.Millisecond))
}

// writerOf returns the primary machine whose agent writes all streams, and the
// lowest of their epochs.
func writerOf(ctx context.Context, l *lab.Lab) (string, tidegate.Epoch, error) {
	var last error
	for _, m := range l.Primaries() {
		var st agent.Status
		if err := lab.GetJSON(ctx, l.AgentURL(m)+"/status", &st); err != nil {
			last = err
			continue
		}
		if epoch, ok := writing(st); ok {
			return m, epoch, nil
		}
	}
	return "", 0, errors.Join(errors.New("no agent writes"), last)
}

// writing reports whether an agent writes every stream; writing begins only
// when the log is proven to continue the standby nodes'.
func writing(st agent.Status) (lowest tidegate.Epoch, ok bool) {
	for _, s := range st.Streams {
		if s.State != agent.StateWriting {
			return 0, false
		}
		if lowest == 0 || s.Epoch < lowest {
			lowest = s.Epoch
		}
	}
	return lowest, len(st.Streams) > 0
}

// handOver kills the machine that writes, ledger and agent, and waits until
// another has taken over and clients are answered. The machine comes back.
func (p *play) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var h handover
	var old tidegate.Epoch
	if err := p.lab.Until(ctx, "a writer", func(ctx context.Context) (err error) {
		h.from, old, err = writerOf(ctx, p.lab)
		return err
	}); err != nil {
		return err
	}
	p.say("kill -9 the writer's machine %s", h.from)
	dead := []*lab.Proc{p.lab.Proc("agent-" + h.from), p.lab.Proc("ledger-" + h.from)}
	began := time.Now()
	for _, proc := range dead {
		proc.Kill()
	}
	p.kills += len(dead)
	if err := p.lab.Until(ctx, "another writer", func(ctx context.Context) (err error) {
		h.to, h.epoch, err = writerOf(ctx, p.lab)
		if err == nil && h.epoch <= old {
			err = fmt.Errorf("%s writes in epoch %d", h.to, h.epoch)
		}
		return err
	}); err != nil {
		return err
	}
	h.writer = time.Since(began)
	if err := p.lab.Until(ctx, "acknowledgements of the new writer", func(context.Context) error {
		if err := p.acks.Read(); err != nil {
			return err
		}
		for _, c := range ledger.Currencies() {
			a, ok := p.acks.First(c, old)
			if !ok {
				return fmt.Errorf("none of %s", c)
			}
			h.ack = max(h.ack, time.UnixMilli(a.AckedMS).Sub(began))
		}
		return nil
	}); err != nil {
		return err
	}
	p.say("handover: %s", h)
	p.handovers = append(p.handovers, h)
	for _, proc := range dead {
		if err := proc.Start(); err != nil {
			return err
		}
	}
	return nil
}
