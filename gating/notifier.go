package gating

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/notify"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/retry"
)

// notifier tells every receiver of the audit trail, while this gate leads: in the
// order of the registry, each entry until it was taken. How far a receiver has
// come is in the registry too, so that the next leader goes on there.
type notifier struct {
	parts
	cluster   string
	receivers []receiver

	mu  sync.Mutex
	at  map[string]registry.Cursor
	bad map[string]string // receivers that do not take an entry: the error
}

type receiver struct {
	cfg notify.Config
	to  notify.Receiver
}

// newNotifier makes the receivers; it reads their files of certificates.
func newNotifier(p parts, cluster string, cfgs []notify.Config) (*notifier, error) {
	n := &notifier{parts: p, cluster: cluster, at: map[string]registry.Cursor{}, bad: map[string]string{}}
	for _, c := range cfgs {
		to, err := notify.New(p.fs, c)
		if err != nil {
			return nil, err
		}
		n.receivers = append(n.receivers, receiver{cfg: c, to: to})
	}
	return n, nil
}

// run serves all receivers until ctx ends. One that does not answer holds up nobody else.
func (n *notifier) run(ctx context.Context, lead *registry.Leadership) error {
	var g errgroup.Group
	for _, r := range n.receivers {
		g.Go(func() error {
			b := retry.Policy{First: 100 * time.Millisecond, Max: 5 * time.Second}.Backoff()
			for ctx.Err() == nil {
				err := n.serve(ctx, lead, r)
				if err != nil && ctx.Err() == nil {
					n.log.Warn("notifications wait", "receiver", r.cfg.Name, "err", err)
				}
				if b.Wait(ctx) != nil {
					break
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// auditBatch is how many entries are read at a time.
const auditBatch = 100

// serve tells a receiver everything that it has not been told, then what comes.
func (n *notifier) serve(ctx context.Context, lead *registry.Leadership, r receiver) error {
	c, err := n.begin(ctx, lead, r)
	if err != nil {
		return err
	}
	for {
		lines, asOf, err := n.store.AuditAfter(ctx, c, auditBatch)
		if err != nil {
			return err
		}
		if c, err = n.tell(ctx, lead, r, c, lines); err != nil {
			return err
		}
		if len(lines) == auditBatch {
			continue
		}
		n.passed(r, c, asOf)
		// What comes is read with the rest: a watch that is held open while a receiver
		// does not answer would collect everything in memory.
		err = n.store.FollowAudit(ctx, asOf, func([]registry.AuditLine) error { return errNews })
		if !errors.Is(err, errNews) {
			return err
		}
	}
}

// errNews ends a wait for new entries.
var errNews = errors.New("there are new entries")

// begin reads how far a receiver has come. A new one begins with what happens
// from now on: nobody wants to be paged for last year.
func (n *notifier) begin(ctx context.Context, lead *registry.Leadership, r receiver) (registry.Cursor, error) {
	var c registry.Cursor
	key := registry.CursorKey(r.cfg.Name)
	rev, err := n.store.Get(ctx, key, &c)
	if err == nil && rev == 0 {
		if c, err = n.store.Newest(ctx); err == nil {
			_, err = n.store.Commit(ctx, new(registry.Tx).Leading(lead).Unchanged(key, 0).Put(key, c))
		}
	}
	if err == nil {
		n.passed(r, c, c.Revision)
		n.setBad(r, "") // another gate may have led meanwhile
	}
	return c, err
}

// tell hands lines over one by one and returns the cursor behind the last.
func (n *notifier) tell(ctx context.Context, lead *registry.Leadership, r receiver, c registry.Cursor, lines []registry.AuditLine) (registry.Cursor, error) {
	for _, l := range lines {
		if c.Passed(l) {
			continue
		}
		c = registry.Cursor{Revision: l.Revision, ID: l.ID, At: n.now().UTC()}
		// What the notifier itself writes down is for people who look at the trail:
		// to tell of a delivery would make the next one.
		if l.Action == ActionNotify || !r.cfg.Wants(l.Action, string(l.Service)) {
			n.passed(r, c, l.Revision)
			continue
		}
		if err := n.deliver(ctx, lead, r, l, c); err != nil {
			return c, err
		}
		n.passed(r, c, l.Revision)
	}
	return c, nil
}

// deliver repeats until the receiver has taken the entry and that is on record.
func (n *notifier) deliver(ctx context.Context, lead *registry.Leadership, r receiver, l registry.AuditLine, c registry.Cursor) error {
	p := payload(n.cluster, l.AuditEntry)
	b := retry.Policy{First: 500 * time.Millisecond, Max: r.cfg.RetryMax}.Backoff()
	for p.Attempt = 1; ; p.Attempt++ {
		began := n.now()
		err := r.to.Deliver(ctx, p)
		n.metrics.delivered(r.cfg.Name, err == nil)
		if err == nil {
			n.setBad(r, "")
			e := n.entry(ctx, ActionNotify, l.Service, "", fact("receiver", "%s", r.cfg.Name), fact("entry", "%s", l.ID),
				fact("action", "%s", l.Action), fact("attempts", "%d", p.Attempt), fact("took", "%s", n.now().Sub(began)))
			return n.record(ctx, lead, r, c, e)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.setBad(r, err.Error())
		if p.Attempt == 1 {
			n.log.Warn("notification not taken, trying again", "receiver", r.cfg.Name, "action", l.Action, "err", err)
			e := n.entry(ctx, ActionNotify, l.Service, "", fact("receiver", "%s", r.cfg.Name), fact("entry", "%s", l.ID),
				fact("action", "%s", l.Action), fact("error", "%s", err))
			e.Outcome = outcomeFailed
			n.note(ctx, e)
		}
		if err := b.Wait(ctx); err != nil {
			return err
		}
	}
}

// record moves the cursor, with the entry that says so. While the registry does
// not answer the receiver waits: to go on without a record would forget the order.
func (n *notifier) record(ctx context.Context, lead *registry.Leadership, r receiver, c registry.Cursor, e registry.AuditEntry) error {
	return retry.Policy{Max: 2 * time.Second}.Do(ctx, func(ctx context.Context) error {
		_, err := n.store.Commit(ctx, new(registry.Tx).Leading(lead).Put(registry.CursorKey(r.cfg.Name), c).Audit(e))
		if errors.Is(err, tidegate.ErrConflict) {
			return &tidegate.Error{Op: "record delivery to", Subject: r.cfg.Name, Class: tidegate.Permanent, Err: errNotLeading}
		}
		return err
	})
}

func payload(cluster string, e registry.AuditEntry) notify.Payload {
	p := notify.Payload{
		Version: notify.PayloadVersion, Cluster: cluster, ID: e.ID, At: e.At, Actor: e.Actor, Action: e.Action, Service: string(e.Service),
		Stream: string(e.Stream), Reason: e.Reason, Outcome: e.Outcome,
	}
	if len(e.Detail) > 0 {
		p.Detail = map[string]string{}
	}
	for _, f := range e.Detail {
		p.Detail[f.Key] = f.Value
	}
	return p
}

func (n *notifier) passed(r receiver, c registry.Cursor, asOf int64) {
	c.Revision = max(c.Revision, asOf)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at[r.cfg.Name] = c
}

func (n *notifier) setBad(r receiver, why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.bad[r.cfg.Name] = why; why == "" {
		delete(n.bad, r.cfg.Name)
	}
}

// failing returns the receivers that do not take what they are told, with the error.
func (n *notifier) failing() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string]string{}
	for name, why := range n.bad {
		out[name] = why
	}
	return out
}

// told returns a revision before which every receiver has been told everything;
// 0 while it is not known of one.
func (n *notifier) told() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	least := int64(math.MaxInt64)
	for _, r := range n.receivers {
		least = min(least, n.at[r.cfg.Name].Revision)
	}
	return least
}
