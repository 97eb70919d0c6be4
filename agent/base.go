package agent

import (
	"context"
	"errors"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/snapshot"
	"github.com/tidegate/tidegate/stores"
)

// BaseStatus is a base on its way to the standby nodes.
type BaseStatus struct {
	To    tidegate.NodeName `json:"to"` // the others have it from there
	Bytes int64             `json:"bytes"`
	Total int64             `json:"total,omitzero"` // as the source guesses; absent while it does not
	Sent  int64             `json:"sent"`           // of it, compressed, of what was not there
}

// pushing is the base that is on its way; meter may be read meanwhile.
type pushing struct {
	node  tidegate.NodeName
	meter *snapshot.Meter
}

func (p *pushing) status() *BaseStatus {
	if p == nil {
		return nil
	}
	m := p.meter.Progress()
	return &BaseStatus{To: p.node, Bytes: m.Bytes, Total: m.Total, Sent: m.Sent}
}

// keepBase sees to it that the standby nodes have the base of the generation, if
// the store needs one: nothing counts as durable before. The log goes on being
// shipped meanwhile. Nodes other than the relay take it from there.
func (w *writer) keepBase(ctx context.Context) error {
	src, based := w.s.source.(stores.Based)
	if !based {
		return nil
	}
	select {
	case <-w.proven:
	case <-ctx.Done():
		return ctx.Err()
	}
	backoff := retry.Policy{First: 500 * time.Millisecond, Max: 30 * time.Second}.Backoff()
	for {
		if err := w.over(); err != nil {
			return err
		}
		err := w.pushBase(ctx, src)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, errNoRelay) {
			w.s.setErr(err)
			w.log.Warn("base not taken", "err", err, "hint", tidegate.HintOf(err))
		}
		if backoff.Wait(ctx) != nil {
			return ctx.Err()
		}
	}
}

var errNoRelay = errors.New("no relay")

// pushBase puts a base to the relay, unless that has one.
func (w *writer) pushBase(ctx context.Context, src stores.Based) error {
	w.mu.Lock()
	l, gen, stream := w.link, w.gen, w.stream
	w.mu.Unlock()
	if l == nil {
		return errNoRelay
	}
	addr, ok := w.s.address(l.node)
	if !ok {
		return errNoRelay
	}
	p := &pushing{node: l.node, meter: &snapshot.Meter{}}
	w.mu.Lock()
	w.base = p
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.base = nil
		w.mu.Unlock()
	}()
	began := w.s.agent.clk.Boot()
	got, err := w.s.agent.dialer(l.node, shipper.Limits{}).PushBase(ctx, addr, shipper.BaseAttach{
		Stream: stream, Generation: gen, Promise: fence.Promise{Epoch: w.epoch, Holder: w.s.agent.holder},
	}, shipper.PushConfig{
		Meter: p.meter,
		// It crosses by the same link, under the same stop.
		Wait: func(ctx context.Context, bytes int) error {
			return w.s.agent.rates.Limiter(rates.Ship).Wait(ctx, bytes)
		},
	}, src.Base)
	if err != nil {
		return err
	}
	if !got.Held {
		w.log.Info("base shipped", "node", string(got.Node), "generation", uint32(gen), "start", got.Info.Start.String(),
			"bytes", p.meter.Progress().Bytes, "sent", p.meter.Progress().Sent, "took", time.Duration(w.s.agent.clk.Boot()-began).String())
	}
	return nil
}
