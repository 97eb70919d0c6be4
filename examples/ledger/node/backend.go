package node

import (
	"context"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// follows reports that this node is a standby now.
func (n *Node) follows() bool { return !n.term.Load().leads.Load() }

// Follows implements [server.Backend].
func (n *Node) Follows() bool { return n.follows() }

// Shelf implements [server.Backend].
func (n *Node) Shelf() *book.Shelf { return n.shelf }

// Submit implements [server.Backend].
func (n *Node) Submit(ctx context.Context, cmd ledger.Command) (ledger.Outcome, error) {
	return n.cluster().Submit(ctx, cmd)
}

// Leader implements [server.Backend]. A fenced node answers by itself, because
// it alone knows why nobody will carry the command out.
func (n *Node) Leader() (string, bool) {
	if n.follows() {
		return "", false
	}
	if n.cluster().Serving() || n.fenced() {
		return "http://" + n.endpoint(), true
	}
	p, ok := n.cluster().Leader()
	if !ok || p.Node == n.cfg.Name {
		return "", false
	}
	return p.HTTP, false
}

func (n *Node) fenced() bool {
	for _, b := range n.shelf.Books() {
		if b.Fenced() != 0 {
			return true
		}
	}
	return false
}

// Epoch implements [server.Backend].
func (n *Node) Epoch(b *book.Book) tidegate.Epoch { return b.Journal().Status().Epoch }

// Status implements [server.Backend].
func (n *Node) Status() api.Status {
	leader, _ := n.Leader()
	s := api.Status{
		Node: string(n.cfg.Name), Role: api.RoleFollower, Leader: leader, Serving: n.cluster().Serving(),
		Started: n.started, Promoted: n.cfg.Follow && !n.follows(),
	}
	switch {
	case n.follows():
		s.Role = api.RoleStandby
	case s.Serving:
		s.Role = api.RoleLeader
	}
	for _, b := range n.shelf.Books() {
		j := b.Journal().Status()
		st := api.Stream{
			Currency: b.Currency(), State: api.StateIdle, Epoch: j.Epoch, FencedBy: b.Fenced(),
			Lineage: b.Journal().Lineage(), End: j.L,
		}
		switch {
		case n.follows():
			st.State = api.StateFollow
		case st.FencedBy != 0:
			st.State = api.StateFenced
		case j.Active:
			st.State = api.StateActive
		}
		if j.AKnown {
			st.Released = &j.A
		}
		if j.DKnown {
			st.Durable = &j.D
		}
		b.View(func(l *ledger.State) {
			st.Applied, st.Records, st.Accounts, st.Minted = l.Position(), l.Records(), l.Accounts(), l.Minted()
		})
		s.Streams = append(s.Streams, st)
	}
	return s
}
