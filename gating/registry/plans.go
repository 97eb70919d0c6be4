package registry

import (
	"context"
	"encoding/json"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tidegate/tidegate"
)

// Plans are found in two ways: all of them by id, which sorts by time, and those
// of one service by its index, whose keys have the plan's id for their end and
// no value. A plan and its entry are written and deleted in one transaction.

// NewPlan demands that the plan does not exist, and writes it with its entry in
// its service's index. The form of the record belongs to the controller.
func (t *Tx) NewPlan(id string, s tidegate.ServiceName, plan any) *Tx {
	return t.Unchanged(PlanKey(id), 0).Put(PlanKey(id), plan).Put(planIndexKey(s, id), nil)
}

func planIndexKey(s tidegate.ServiceName, id string) Key {
	return Key(planIndexTable + string(s) + "/" + id)
}

// Plan is a plan's record with its place.
type Plan struct {
	ID       string
	Record   json.RawMessage
	Revision int64
}

// Plans reads up to limit plans, newest first: those older than the plan with
// the id before, unless it is empty, and of one service, unless s is empty.
func (s *Store) Plans(ctx context.Context, of tidegate.ServiceName, before string, limit int) ([]Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if of == "" {
		return s.planTable(ctx, before, limit)
	}
	ids, err := s.planIDs(ctx, of, before, limit, clientv3.SortDescend)
	if err != nil {
		return nil, err
	}
	return s.readPlans(ctx, ids)
}

func (s *Store) planTable(ctx context.Context, before string, limit int) ([]Plan, error) {
	r, err := s.client.Get(ctx, s.root+plansTable, s.olderThan(plansTable, before, limit, clientv3.SortDescend)...)
	if err != nil {
		return nil, s.fail("list", plansTable, err)
	}
	out := make([]Plan, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		out = append(out, Plan{ID: strings.TrimPrefix(string(kv.Key), s.root+plansTable), Record: kv.Value, Revision: kv.ModRevision})
	}
	return out, nil
}

// olderThan selects the keys of a table before one of them.
func (s *Store) olderThan(table, before string, limit int, order clientv3.SortOrder) []clientv3.OpOption {
	end := clientv3.GetPrefixRangeEnd(s.root + table)
	if before != "" {
		end = s.root + table + before
	}
	return []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(int64(limit)), clientv3.WithSort(clientv3.SortByKey, order)}
}

func (s *Store) planIDs(ctx context.Context, of tidegate.ServiceName, before string, limit int, order clientv3.SortOrder) ([]string, error) {
	table := string(planIndexKey(of, ""))
	r, err := s.client.Get(ctx, s.root+table, append(s.olderThan(table, before, limit, order), clientv3.WithKeysOnly())...)
	if err != nil {
		return nil, s.fail("list", Key(table), err)
	}
	out := make([]string, 0, len(r.Kvs))
	for _, kv := range r.Kvs {
		out = append(out, strings.TrimPrefix(string(kv.Key), s.root+table))
	}
	return out, nil
}

// readsMax is how many records one transaction reads: below etcd's limit of
// 128 operations, and a bound on its answer.
const readsMax = 50

func (s *Store) readPlans(ctx context.Context, ids []string) ([]Plan, error) {
	out := make([]Plan, 0, len(ids))
	for len(ids) > 0 {
		some := ids[:min(readsMax, len(ids))]
		ids = ids[len(some):]
		gets := make([]clientv3.Op, 0, len(some))
		for _, id := range some {
			gets = append(gets, clientv3.OpGet(s.key(PlanKey(id))))
		}
		r, err := s.client.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return nil, s.fail("read", plansTable, err)
		}
		for i, one := range r.Responses {
			for _, kv := range one.GetResponseRange().Kvs { // none: deleted meanwhile
				out = append(out, Plan{ID: some[i], Record: kv.Value, Revision: kv.ModRevision})
			}
		}
	}
	return out, nil
}

// PrunePlans deletes the oldest plans of a service beyond the newest keep of
// them, as long as l leads. over says whether a plan has ended: one that has
// not is never deleted. It returns how many were.
func (s *Store) PrunePlans(ctx context.Context, l *Leadership, of tidegate.ServiceName, keep int, over func(json.RawMessage) (bool, error)) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	table := string(planIndexKey(of, ""))
	r, err := s.client.Get(ctx, s.root+table, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, s.fail("count", Key(table), err)
	}
	excess := int(r.Count) - keep
	if excess <= 0 {
		return 0, nil
	}
	ids, err := s.planIDs(ctx, of, "", min(excess, readsMax), clientv3.SortAscend)
	if err != nil {
		return 0, err
	}
	plans, err := s.readPlans(ctx, ids)
	if err != nil {
		return 0, err
	}
	tx, n := new(Tx).Leading(l), 0
	for _, p := range plans {
		ended, err := over(p.Record)
		if err != nil {
			return 0, corrupt(PlanKey(p.ID), err)
		}
		if ended {
			tx.Unchanged(PlanKey(p.ID), p.Revision).Delete(PlanKey(p.ID)).Delete(planIndexKey(of, p.ID))
			n++
		}
	}
	if n == 0 {
		return 0, nil
	}
	_, err = s.Commit(ctx, tx)
	return n, err
}
