package registry

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/fence"
)

// View is the live tables at one revision. It is immutable.
type View struct {
	Revision int64
	Services map[tidegate.ServiceName]Entry[Service]
	Streams  map[tidegate.StreamID]Entry[Stream]
	Epochs   map[tidegate.StreamID]Entry[fence.EpochRecord]
	Nodes    map[Key]Entry[Node] // by [NodeKey]
	Routes   map[tidegate.ServiceName]Entry[Route]
	Drills   map[tidegate.ServiceName]Entry[Drills]

	Schedules map[tidegate.ServiceName]Entry[Schedule]
}

// StreamsOf returns a service's streams ordered by name.
func (v *View) StreamsOf(s tidegate.ServiceName) []Stream {
	var out []Stream
	for _, e := range v.Streams {
		if e.Value.Service == s {
			out = append(out, e.Value)
		}
	}
	slices.SortFunc(out, func(a, b Stream) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}

// ServiceNames returns all services in order.
func (v *View) ServiceNames() []tidegate.ServiceName {
	return slices.Sorted(maps.Keys(v.Services))
}

// Node returns a registered node.
func (v *View) Node(k Kind, n tidegate.NodeName) (Node, bool) {
	e, ok := v.Nodes[NodeKey(k, n)]
	return e.Value, ok
}

// Stream finds a stream by name.
func (v *View) Stream(s tidegate.ServiceName, n tidegate.StreamName) (Entry[Stream], bool) {
	for _, e := range v.Streams {
		if e.Value.Service == s && e.Value.Name == n {
			return e, true
		}
	}
	return Entry[Stream]{}, false
}

// Read reads the live tables linearizably.
func (s *Store) Read(ctx context.Context) (*View, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.root+liveTable, clientv3.WithPrefix())
	if err != nil {
		return nil, s.fail("read", liveTable, err)
	}
	v := &View{
		Revision: r.Header.Revision,
		Services: map[tidegate.ServiceName]Entry[Service]{}, Streams: map[tidegate.StreamID]Entry[Stream]{},
		Epochs: map[tidegate.StreamID]Entry[fence.EpochRecord]{}, Nodes: map[Key]Entry[Node]{},
		Routes: map[tidegate.ServiceName]Entry[Route]{}, Drills: map[tidegate.ServiceName]Entry[Drills]{},
		Schedules: map[tidegate.ServiceName]Entry[Schedule]{},
	}
	for _, kv := range r.Kvs {
		if err := v.add(Key(kv.Key[len(s.root):]), kv.Value, kv.ModRevision); err != nil {
			return nil, err
		}
	}
	return v, nil
}

func (v *View) add(k Key, value []byte, rev int64) error {
	table, rest, _ := strings.Cut(strings.TrimPrefix(string(k), liveTable), "/")
	var err error
	switch table + "/" {
	case strings.TrimPrefix(servicesTable, liveTable):
		err = put1(v.Services, tidegate.ServiceName(rest), value, rev)
	case strings.TrimPrefix(streamsTable, liveTable):
		err = putID(v.Streams, rest, value, rev)
	case strings.TrimPrefix(epochsTable, liveTable):
		var rec fence.EpochRecord
		if rec, err = fence.ParseEpochRecord(value); err == nil {
			v.Epochs[rec.Stream] = Entry[fence.EpochRecord]{Value: rec, Revision: rev}
		}
	case strings.TrimPrefix(nodesTable, liveTable):
		err = put1(v.Nodes, k, value, rev)
	case strings.TrimPrefix(routesTable, liveTable):
		err = put1(v.Routes, tidegate.ServiceName(rest), value, rev)
	case strings.TrimPrefix(drillsTable, liveTable):
		err = put1(v.Drills, tidegate.ServiceName(rest), value, rev)
	case strings.TrimPrefix(schedulesTable, liveTable):
		err = put1(v.Schedules, tidegate.ServiceName(rest), value, rev)
	}
	if err != nil {
		return corrupt(k, err)
	}
	return nil
}

func put1[K comparable, T any](m map[K]Entry[T], k K, value []byte, rev int64) error {
	e := Entry[T]{Revision: rev}
	if err := json.Unmarshal(value, &e.Value); err != nil {
		return err
	}
	m[k] = e
	return nil
}

func putID[T any](m map[tidegate.StreamID]Entry[T], id string, value []byte, rev int64) error {
	k, err := tidegate.ParseID(id)
	if err != nil {
		return err
	}
	return put1(m, k, value, rev)
}

// ReadEpochs reads the epoch records of streams in one linearizable
// transaction, in the order asked. A stream without a record has revision 0.
func (s *Store) ReadEpochs(ctx context.Context, streams ...tidegate.StreamID) ([]Entry[fence.EpochRecord], error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	gets := make([]clientv3.Op, 0, len(streams))
	for _, id := range streams {
		gets = append(gets, clientv3.OpGet(s.key(EpochKey(id))))
	}
	r, err := s.client.Txn(ctx).Then(gets...).Commit()
	if err != nil {
		return nil, s.fail("read", epochsTable, err)
	}
	out := make([]Entry[fence.EpochRecord], len(streams))
	for i, one := range r.Responses {
		for _, kv := range one.GetResponseRange().Kvs {
			rec, err := fence.ParseEpochRecord(kv.Value)
			if err != nil {
				return nil, corrupt(EpochKey(streams[i]), err)
			}
			out[i] = Entry[fence.EpochRecord]{Value: rec, Revision: kv.ModRevision}
		}
	}
	return out, nil
}

// Follow calls changed with the live tables after every change from revision
// after on, in order, until ctx ends (nil) or the registry stops answering (an
// error; call again). Changes that arrive together are one call. changed runs on
// the caller's goroutine.
//
// The tables are read anew at each change: they are small, changes are rare, and
// a view put together from events could differ from what is there.
func (s *Store) Follow(ctx context.Context, after int64, changed func(*View)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Without a leader requirement a partitioned member would keep the watch open and silent.
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), s.root+liveTable, clientv3.WithPrefix(), clientv3.WithRev(after+1))
	for {
		select {
		case <-ctx.Done():
			return nil
		case r, ok := <-events:
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return s.fail("watch", liveTable, context.DeadlineExceeded)
			}
			if err := r.Err(); err != nil {
				return s.fail("watch", liveTable, err)
			}
			if len(r.Events) == 0 || r.Header.Revision <= after {
				continue
			}
			v, err := s.Read(ctx)
			if err != nil {
				return err
			}
			after = v.Revision
			changed(v)
		}
	}
}
