package registry

import (
	"context"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Leadership is a gate's turn at running plans. A transaction with
// [Tx.Leading] is refused once the turn is over, whatever this process believes.
type Leadership struct {
	session  *concurrency.Session
	election *concurrency.Election
	key      Key
	revision int64
}

// Campaign waits until this gate leads. Its turn ends with Resign, or when the
// registry has not heard from it for ttl. The name must be this gate's alone: a
// turn that an earlier run under it has left behind is ended at once.
func (s *Store) Campaign(ctx context.Context, name string, ttl time.Duration) (*Leadership, error) {
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(int(ttl/time.Second)), concurrency.WithContext(ctx))
	if err != nil {
		return nil, s.fail("join election in", electionTable, err)
	}
	if err := s.retire(ctx, name, session.Lease()); err != nil {
		session.Orphan()
		return nil, err
	}
	e := concurrency.NewElection(session, s.root+electionTable)
	if err := e.Campaign(ctx, name); err != nil {
		session.Orphan()
		return nil, s.fail("campaign in", electionTable, err)
	}
	return &Leadership{session: session, election: e, key: Key(strings.TrimPrefix(e.Key(), s.root)), revision: e.Rev()}, nil
}

// retire ends the turns and candidacies of earlier runs of this gate. A gate that
// was killed could not resign; without this its restart, which knows better than
// anybody that the old run is dead, would wait for the ttl behind itself.
func (s *Store) retire(ctx context.Context, name string, own clientv3.LeaseID) error {
	r, err := s.client.Get(ctx, s.root+electionTable+"/", clientv3.WithPrefix())
	if err != nil {
		return s.fail("look for earlier runs in", electionTable, err)
	}
	for _, kv := range r.Kvs {
		lease := clientv3.LeaseID(kv.Lease)
		if string(kv.Value) != name || lease == own || lease == clientv3.NoLease {
			continue
		}
		// It may have run out just now. If it has not, the campaign waits for it as
		// it would for another gate's.
		_, _ = s.client.Revoke(ctx, lease)
	}
	return nil
}

// Done is closed when the turn is over without Resign.
func (l *Leadership) Done() <-chan struct{} { return l.session.Done() }

// Resign ends the turn at once, so that the next gate need not wait for the
// ttl. It waits for the registry no longer than ctx.
func (l *Leadership) Resign(ctx context.Context) error {
	err := l.election.Resign(ctx)
	l.session.Orphan()
	if _, rerr := l.session.Client().Revoke(ctx, l.session.Lease()); rerr != nil && err == nil {
		err = rerr
	}
	return err
}

// Leader returns the name of the gate that leads; "" when none does.
func (s *Store) Leader(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.root+electionTable+"/", clientv3.WithFirstCreate()...)
	if err != nil {
		return "", s.fail("read leader from", electionTable, err)
	}
	if len(r.Kvs) == 0 {
		return "", nil
	}
	return string(r.Kvs[0].Value), nil
}
