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
// registry has not heard from it for ttl.
func (s *Store) Campaign(ctx context.Context, name string, ttl time.Duration) (*Leadership, error) {
	session, err := concurrency.NewSession(s.client, concurrency.WithTTL(int(ttl/time.Second)), concurrency.WithContext(ctx))
	if err != nil {
		return nil, s.fail("join election in", electionTable, err)
	}
	e := concurrency.NewElection(session, s.root+electionTable)
	if err := e.Campaign(ctx, name); err != nil {
		session.Orphan()
		return nil, s.fail("campaign in", electionTable, err)
	}
	return &Leadership{session: session, election: e, key: Key(strings.TrimPrefix(e.Key(), s.root)), revision: e.Rev()}, nil
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
