package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// Lease is the output lease of a service's writer: while the key stands, the
// holder may release what its gate alone would not stop. The key hangs on a lease
// of etcd and goes away by itself.
//
// The two ends count on different clocks. The holder counts ttl from before it
// asked, less a margin; etcd counts ttl from when it granted, which is later, so
// the key outlives what the holder makes of it.
type Lease struct {
	Service tidegate.ServiceName                 `json:"service"`
	Holder  fence.Holder                         `json:"holder"`
	Epochs  map[tidegate.StreamID]tidegate.Epoch `json:"epochs"`
	TTL     time.Duration                        `json:"ttl"`     // nanoseconds
	Renewed time.Time                            `json:"renewed"` // the gate's wall clock; information only
}

// Bounds of a lease's time to live. Shorter ones fall below what etcd grants
// while its election timeout is a second; longer ones hold a failover up.
const (
	LeaseTTLMin = 3 * time.Second
	LeaseTTLMax = fence.LeaseTTLMax
)

// ValidLeaseTTL reports a time to live that etcd could not keep: 0 is none.
func ValidLeaseTTL(d time.Duration) error {
	if d != 0 && (d < LeaseTTLMin || d > LeaseTTLMax || d%time.Second != 0) {
		return fmt.Errorf("lease ttl %s: want whole seconds from %s to %s, or 0 for none", d, LeaseTTLMin, LeaseTTLMax)
	}
	return nil
}

// LeaseMargin is how much longer than its key a lease is waited for: two
// clocks that drift apart by 200 ppm each, and the resolution of timers.
func LeaseMargin(ttl time.Duration) time.Duration { return 250*time.Millisecond + ttl/1000 }

// PutLease writes a lease under a fresh lease of etcd, provided that the epoch
// records are still at the revisions that the caller read. What held the key
// before is given back. It fails with [tidegate.ErrConflict] when a record has
// changed: a change of writer that has reserved its epoch is never renewed over.
func (s *Store) PutLease(ctx context.Context, l Lease, at map[tidegate.StreamID]int64) error {
	b, err := json.Marshal(l)
	if err != nil {
		return &tidegate.Error{Op: "encode record", Subject: string(LeaseKey(l.Service)), Class: tidegate.Permanent, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// Granted before the records are compared: etcd's count begins after the
	// holder's in any case.
	grant, err := s.client.Grant(ctx, int64((l.TTL+time.Second-1)/time.Second)) // never less than the holder counts
	if err != nil {
		return s.fail("grant lease in", LeaseKey(l.Service), err)
	}
	var ifs []clientv3.Cmp
	for id, rev := range at {
		ifs = append(ifs, clientv3.Compare(clientv3.ModRevision(s.key(EpochKey(id))), "=", rev))
	}
	r, err := s.client.Txn(ctx).If(ifs...).
		Then(clientv3.OpPut(s.key(LeaseKey(l.Service)), string(b), clientv3.WithLease(grant.ID), clientv3.WithPrevKV())).Commit()
	if err != nil {
		return s.fail("write", LeaseKey(l.Service), err) // the grant runs out by itself; the key may stand that long
	}
	if !r.Succeeded {
		s.giveBack(ctx, grant.ID)
		return &tidegate.Error{Op: "write registry", Subject: string(LeaseKey(l.Service)), Class: tidegate.Transient, Err: tidegate.ErrConflict}
	}
	if prev := r.Responses[0].GetResponsePut().GetPrevKv(); prev != nil && prev.Lease != 0 {
		s.giveBack(ctx, clientv3.LeaseID(prev.Lease))
	}
	return nil
}

// giveBack revokes a lease of etcd that no key hangs on any more. If it fails the
// lease runs out by itself.
func (s *Store) giveBack(ctx context.Context, id clientv3.LeaseID) { _, _ = s.client.Revoke(ctx, id) }

// GetLease reads a service's lease linearizably; ok is false when none runs.
func (s *Store) GetLease(ctx context.Context, service tidegate.ServiceName) (l Lease, ok bool, err error) {
	rev, err := s.Get(ctx, LeaseKey(service), &l)
	return l, rev != 0, err
}

// DropLease ends a lease before its time, if holder on node has it; otherwise it does nothing.
func (s *Store) DropLease(ctx context.Context, service tidegate.ServiceName, node tidegate.NodeName, holder tidegate.HolderID) error {
	var l Lease
	rev, err := s.Get(ctx, LeaseKey(service), &l)
	if err != nil || rev == 0 || l.Holder.UUID != holder || l.Holder.Node != node {
		return err
	}
	_, err = s.Commit(ctx, new(Tx).Unchanged(LeaseKey(service), rev).Delete(LeaseKey(service)))
	if errors.Is(err, tidegate.ErrConflict) {
		return nil // renewed by somebody newer, or just run out
	}
	return err
}
