package node

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// term is one stretch of a node's life: it follows, is promoted, leads, and ends
// when the ledger is written at another site. A primary begins by leading and has
// only one.
type term struct {
	cluster *cluster.Cluster
	leads   atomic.Bool   // takes part in the cluster, or may at any moment
	crossed chan struct{} // closed when all books are at the failover's head
	left    chan struct{} // closed when the ledger is written elsewhere: lead no more
	over    chan struct{} // closed when nothing of the cluster is left

	mu    sync.Mutex
	ready map[ledger.Currency]bool // books at the failover's head
}

func (n *Node) beginTerm(leads bool) error {
	c, err := cluster.New(n.log, n.shelf, n.http, n.cfg.Cluster)
	if err != nil {
		return err
	}
	t := &term{
		cluster: c, crossed: make(chan struct{}), left: make(chan struct{}), over: make(chan struct{}),
		ready: map[ledger.Currency]bool{},
	}
	t.leads.Store(leads)
	n.term.Store(t)
	return nil
}

// cluster is this term's part in raft.
func (n *Node) cluster() *cluster.Cluster { return n.term.Load().cluster }

// terms lives one term after the other until ctx ends.
func (n *Node) terms(ctx context.Context) error {
	if n.follows() {
		if err := n.recover(ctx); err != nil {
			return err
		}
		n.begin()
	} else {
		if err := n.goOn(ctx); err != nil {
			return err
		}
		for _, b := range n.shelf.Books() {
			b.TakeOver()
		}
	}
	for ctx.Err() == nil {
		t := n.term.Load()
		if !t.leads.Load() {
			if err := n.awaitPromotion(ctx, t); err != nil || ctx.Err() != nil {
				return err
			}
		}
		if err := n.lead(ctx, t); err != nil || ctx.Err() != nil {
			return err
		}
		if err := n.retire(t); err != nil {
			return err
		}
	}
	return nil
}

// goOn lets a cluster of one go on from journals of which raft has nothing, as they come
// out of an archive. In a larger one the others may have more.
func (n *Node) goOn(ctx context.Context) error {
	written := func(b *book.Book) bool { return b.Journal().End() > 0 }
	if len(n.cfg.Peers) != 1 || !slices.ContainsFunc(n.shelf.Books(), written) {
		return nil
	}
	blank, err := cluster.Blank(n.log, n.cfg.Dir)
	if err != nil || !blank {
		return err
	}
	if err := n.recover(ctx); err != nil {
		return err
	}
	return n.seed()
}

// seed makes a cluster of one out of the books as they are.
func (n *Node) seed() error {
	began := time.Now()
	// What lies there is of a cluster that the ledger went on without, or of a seed
	// that was cut short: raft must not find its log behind the new beginning.
	if _, err := cluster.Retire(n.cfg.Dir); err != nil {
		return err
	}
	if err := n.cluster().Seed(); err != nil {
		return err
	}
	n.log.Info("cluster of one seeded", "node", n.cfg.Name, "took", time.Since(began))
	return nil
}

func (n *Node) recover(ctx context.Context) error {
	began := time.Now()
	if err := n.shelf.Recover(ctx); err != nil {
		return err
	}
	for _, b := range n.shelf.Books() {
		n.log.Info("recovered", "stream", b.Currency().String(), "position", b.Position(), "took", time.Since(began))
	}
	return nil
}

// begin lets the daemons hear of the journals. Called by terms alone.
func (n *Node) begin() {
	if !closed(n.begun) {
		close(n.begun)
	}
}

// awaitPromotion keeps the states warm until both books were promoted.
func (n *Node) awaitPromotion(ctx context.Context, t *term) error {
	select {
	case <-t.crossed:
	case <-ctx.Done():
		return nil
	}
	if err := n.seed(); err != nil {
		return err
	}
	t.leads.Store(true)
	return nil
}

// lead takes part in the cluster until ctx ends or the ledger is written at
// another site.
func (n *Node) lead(ctx context.Context, t *term) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer cancel()
		return t.cluster.Run(ctx)
	})
	g.Go(func() error {
		select {
		case <-t.cluster.Restored():
			n.begin()
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-t.left:
			cancel()
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// retire ends a term for good: raft's state goes aside, so that this node cannot
// begin to lead by itself, and the books belong to the journals' follower.
func (n *Node) retire(t *term) error {
	aside, err := cluster.Retire(n.cfg.Dir)
	if err != nil {
		return err
	}
	for _, b := range n.shelf.Books() {
		b.GiveBack()
	}
	if err := n.beginTerm(false); err != nil {
		return err
	}
	n.log.Warn("following: the ledger is written at another site", "node", n.cfg.Name, "raft_moved_to", aside)
	close(t.over)
	return nil
}

// Promote implements [book.Desk].
func (n *Node) Promote(ctx context.Context, b *book.Book, epoch tidegate.Epoch, at tidegate.Position) error {
	t := n.term.Load()
	if !t.leads.Load() {
		// The branch record is the journal's own: the state only steps over it.
		if err := b.SkipTo(b.Journal().End()); err != nil {
			return err
		}
		b.TakeOver()
		b.PutOut(epoch)
		n.log.Info("book promoted", "stream", b.Currency().String(), "epoch", epoch, "position", at)
		t.mu.Lock()
		t.ready[b.Currency()] = true
		if len(t.ready) == len(n.shelf.Books()) && !closed(t.crossed) {
			close(t.crossed)
		}
		t.mu.Unlock()
	}
	select {
	case <-t.cluster.Ready():
		return nil
	case <-t.over:
		return fmt.Errorf("promote %s: %w", b.Currency(), tidegate.ErrConflict)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Fenced implements [book.Desk]. The journal remembers it and Submit asks the book.
func (n *Node) Fenced(b *book.Book, epoch tidegate.Epoch) {
	n.log.Warn("fenced: clients are turned away", "stream", b.Currency().String(), "epoch", epoch)
}

// Following implements [book.Desk]: a node that led gives its cluster up.
func (n *Node) Following(ctx context.Context, b *book.Book, epoch tidegate.Epoch) error {
	t := n.term.Load()
	if t.stays(b) {
		return nil
	}
	n.log.Warn("told to follow", "stream", b.Currency().String(), "epoch", epoch)
	select {
	case <-t.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stays reports that a term which has not led yet goes on following; any other
// is asked to end.
func (t *term) stays(b *book.Book) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.leads.Load() && !closed(t.crossed) {
		// A promotion of one book alone may have begun before; it will begin again.
		delete(t.ready, b.Currency())
		b.GiveBack()
		return true
	}
	if !closed(t.left) {
		close(t.left)
	}
	return false
}
