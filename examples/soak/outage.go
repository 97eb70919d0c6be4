package main

import (
	"context"
	"os"
	"time"

	"github.com/tidegate/tidegate/internal/lab"
)

// ownRegistry starts a registry beside the lab, for the lab's gate to use.
func (p *play) ownRegistry() (stop func(), err error) {
	dir := p.plant.Dir + "-etcd"
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	if p.registry, err = lab.NewRegistry(dir); err != nil {
		return nil, err
	}
	p.plant.Etcd = []string{p.registry.Endpoint}
	return p.registry.Stop, nil
}

// withoutRegistry takes the registry away for p.outage. Clients must be served
// all the time, by the same writer, and a standby node that dies meanwhile must
// come back: only role changes wait.
func (p *play) withoutRegistry(ctx context.Context) error {
	p.say("the registry goes away for %s", p.outage)
	p.registry.Stop()
	began := time.Now()
	for i := 0; time.Since(began) < p.outage; i++ {
		if err := p.recovered(ctx, "transfers without a registry"); err != nil {
			return err
		}
		if err := p.pause(ctx, min(killEvery, time.Until(began.Add(p.outage)))); err != nil {
			return err
		}
		if i%10 != 0 {
			continue
		}
		node := p.lab.Proc("standby-" + p.lab.Standbys()[i/10%len(p.lab.Standbys())])
		p.say("  %5.1fs kill -9 and start %s", time.Since(began).Seconds(), node.Name)
		node.Kill()
		p.kills++
		if err := node.Start(); err != nil {
			return err
		}
	}
	p.say("the registry is back after %s", time.Since(began).Round(time.Second))
	if err := p.registry.Start(); err != nil {
		return err
	}
	return within(ctx, func(ctx context.Context) error {
		back := time.Now()
		err := p.lab.Until(ctx, "a failover to be possible again", func(ctx context.Context) error {
			return p.lab.MayFailOver(ctx)
		})
		if err != nil {
			return err
		}
		p.say("a failover is possible again after %s", time.Since(back).Round(time.Millisecond))
		return nil
	})
}
