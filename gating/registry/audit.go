package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tidegate/tidegate"
)

// AuditEntry is one thing that somebody did, or that happened to a gate. It is
// written in the transaction that did it, so that there is neither a deed
// without its entry nor an entry without its deed, and never changed.
type AuditEntry struct {
	ID      string               `json:"id"` // sorts by time
	At      time.Time            `json:"at"`
	Actor   string               `json:"actor"`  // "operator/alice", "agent/p1", "gate/g1"
	Action  string               `json:"action"` // one of package gating's Action constants
	Service tidegate.ServiceName `json:"service,omitempty"`
	Stream  tidegate.StreamName  `json:"stream,omitempty"`
	Reason  string               `json:"reason,omitempty"`
	Outcome string               `json:"outcome"` // "done", "refused", "failed", "unchanged"
	Detail  []Fact               `json:"detail,omitempty"`
}

// Fact is one named value of an entry.
type Fact struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// AuditLine is an entry with its place in the order of the registry.
type AuditLine struct {
	AuditEntry
	Revision int64 // at which it was written; entries of one transaction share it
}

// Cursor says how far a receiver has been told: everything up to the entry ID of
// Revision. Revisions order entries as they were committed; ids only roughly, as
// gates' clocks differ, so that an entry could appear behind a cursor of ids.
type Cursor struct {
	Revision int64     `json:"revision,string"`
	ID       string    `json:"id"`
	At       time.Time `json:"at"` // of the last delivery; information only
}

// Passed reports whether the receiver has been told of a line.
func (c Cursor) Passed(l AuditLine) bool {
	return l.Revision < c.Revision || l.Revision == c.Revision && l.ID <= c.ID
}

// Audit adds an entry to the transaction.
func (t *Tx) Audit(e AuditEntry) *Tx { return t.Put(AuditKey(e.ID), e) }

// AuditAfter reads up to limit entries beyond a cursor in the order in which they
// were committed. asOf is the revision it was read at: with fewer than limit
// entries there is nothing else between the cursor and that.
func (s *Store) AuditAfter(ctx context.Context, c Cursor, limit int) (lines []AuditLine, asOf int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	// A revision may hold several entries, of which the cursor has passed some:
	// it is read whole, and the limit is a round figure.
	r, err := s.client.Get(ctx, s.root+auditTable, clientv3.WithPrefix(), clientv3.WithMinCreateRev(max(c.Revision, 1)),
		clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(int64(limit+readsMax)))
	if err != nil {
		return nil, 0, s.fail("list", auditTable, err)
	}
	var out []AuditLine
	for _, kv := range r.Kvs {
		l := AuditLine{Revision: kv.CreateRevision}
		if err := json.Unmarshal(kv.Value, &l.AuditEntry); err != nil {
			return nil, 0, corrupt(Key(kv.Key[len(s.root):]), err)
		}
		if !c.Passed(l) {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, inOrder)
	return out[:min(limit, len(out))], r.Header.Revision, nil
}

// FollowAudit calls each with the entries committed after a revision, in order,
// until ctx ends (nil), each fails, or the registry stops answering or has
// forgotten that revision (an error: read with AuditAfter and call again). each
// runs on the caller's goroutine.
func (s *Store) FollowAudit(ctx context.Context, after int64, each func([]AuditLine) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), s.root+auditTable, clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithFilterDelete())
	for r := range events {
		if err := r.Err(); err != nil {
			return s.fail("watch", auditTable, err)
		}
		var lines []AuditLine
		for _, ev := range r.Events {
			l := AuditLine{Revision: ev.Kv.ModRevision}
			if err := json.Unmarshal(ev.Kv.Value, &l.AuditEntry); err != nil {
				return corrupt(Key(ev.Kv.Key[len(s.root):]), err)
			}
			lines = append(lines, l)
		}
		slices.SortFunc(lines, inOrder)
		if len(lines) == 0 {
			continue
		}
		if err := each(lines); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return s.fail("watch", auditTable, context.DeadlineExceeded)
}

func inOrder(a, b AuditLine) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
}

// AuditFrom reads entries with ids greater than after, oldest first, and passes
// each to keep until keep has taken limit of them. next is where the rest begins;
// "" when there is none.
func (s *Store) AuditFrom(ctx context.Context, after string, limit int, keep func(AuditEntry) bool) (out []AuditEntry, next string, err error) {
	for {
		page, err := s.auditPage(ctx, after)
		if err != nil {
			return nil, "", err
		}
		for _, e := range page {
			if !keep(e) {
				after = e.ID
				continue
			}
			if len(out) == limit {
				return out, after, nil
			}
			out, after = append(out, e), e.ID
		}
		if len(page) < auditPageMax {
			return out, "", nil
		}
	}
}

// auditPageMax is how many entries one request reads.
const auditPageMax = 500

func (s *Store) auditPage(ctx context.Context, after string) ([]AuditEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	from := s.root + auditTable
	if after != "" {
		from += after + "\x00"
	}
	r, err := s.client.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(s.root+auditTable)),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend), clientv3.WithLimit(auditPageMax))
	if err != nil {
		return nil, s.fail("list", auditTable, err)
	}
	out := make([]AuditEntry, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		var e AuditEntry
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			return nil, corrupt(Key(kv.Key[len(s.root):]), err)
		}
		out = append(out, e)
	}
	return out, nil
}

// Newest returns the cursor that has passed everything there is now.
func (s *Store) Newest(ctx context.Context) (Cursor, error) {
	m, err := s.now(ctx)
	return Cursor{Revision: m.Revision, ID: "\xff"}, err
}

// PruneAudit deletes the oldest entries beyond the newest keep of them, as long as
// l leads, and returns how many: a few at a time, call it again. What was committed
// at revision before or later stays, whatever keep says.
func (s *Store) PruneAudit(ctx context.Context, l *Leadership, keep int, before int64) (int, error) {
	cctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.client.Get(cctx, s.root+auditTable, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, s.fail("count", auditTable, err)
	}
	excess := int(r.Count) - keep
	if excess <= 0 {
		return 0, nil
	}
	old, err := s.client.Get(cctx, s.root+auditTable, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend), clientv3.WithLimit(int64(min(excess, readsMax))))
	if err != nil {
		return 0, s.fail("list", auditTable, err)
	}
	tx, n := new(Tx).Leading(l), 0
	for _, kv := range old.Kvs {
		if kv.CreateRevision < before {
			tx.Delete(Key(kv.Key[len(s.root):]))
			n++
		}
	}
	if n == 0 {
		return 0, nil
	}
	_, err = s.Commit(ctx, tx)
	return n, err
}
