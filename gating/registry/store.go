package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tidegate/tidegate"
)

// Store is a client of the registry. It may be used concurrently.
type Store struct {
	client  *clientv3.Client
	root    string
	timeout time.Duration
}

// hintUnreachable goes with every failed request: what still works matters more
// to an operator than what does not.
const hintUnreachable = "the registry (etcd) does not answer; streams keep flowing, role changes wait until it is back"

// Open connects to the registry. It does not wait for an answer: a registry
// that is down is reported by the first request. Close it.
func Open(cluster string, cfg Config) (*Store, error) {
	endpoints := cfg.Endpoints
	if cfg.Embedded() {
		endpoints = []string{"unix://" + cfg.Socket}
	}
	tlsCfg, err := clientTLS(cfg.TLS)
	if err != nil {
		return nil, &tidegate.Error{Op: "open registry", Subject: cluster, Class: tidegate.Misuse, Err: err}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		TLS:                  tlsCfg,
		DialKeepAliveTime:    cfg.Timeout,
		DialKeepAliveTimeout: cfg.Timeout,
		PermitWithoutStream:  true,
		Logger:               zap.NewNop(), // every failure also comes back as an error
		// gRPC's own pause between attempts grows to two minutes: role changes would
		// wait for that long after an etcd that was gone for ten has come back.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: cfg.Timeout,
		})},
	})
	if err != nil {
		return nil, &tidegate.Error{Op: "open registry", Subject: cluster, Class: tidegate.Misuse, Err: err}
	}
	return &Store{client: client, root: "/tidegate/" + cluster + "/", timeout: cfg.Timeout}, nil
}

func clientTLS(t TLS) (*tls.Config, error) {
	if t == (TLS{}) {
		return nil, nil
	}
	info := transport.TLSInfo{TrustedCAFile: t.CA, CertFile: t.Cert, KeyFile: t.Key}
	return info.ClientConfig()
}

// Close ends the connection.
func (s *Store) Close() error { return s.client.Close() }

// Client is the etcd client, for elections and for snapshots of the registry.
func (s *Store) Client() *clientv3.Client { return s.client }

func (s *Store) key(k Key) string { return s.root + string(k) }

// Entry is a record with the revision of its last change; 0 means there is none.
type Entry[T any] struct {
	Value    T
	Revision int64
}

// Get reads one record linearizably into v. Revision 0 means there is none and
// v is untouched.
func (s *Store) Get(ctx context.Context, k Key, v any) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.key(k))
	if err != nil {
		return 0, s.fail("read", k, err)
	}
	if len(r.Kvs) == 0 {
		return 0, nil
	}
	if err := json.Unmarshal(r.Kvs[0].Value, v); err != nil {
		return 0, corrupt(k, err)
	}
	return r.Kvs[0].ModRevision, nil
}

// list reads a table in the order of its keys.
func (s *Store) list(ctx context.Context, prefix string, each func(Key, []byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.client.Get(ctx, s.root+prefix, clientv3.WithPrefix())
	if err != nil {
		return s.fail("list", Key(prefix), err)
	}
	for _, kv := range r.Kvs {
		if err := each(Key(kv.Key[len(s.root):]), kv.Value); err != nil {
			return err
		}
	}
	return nil
}

// Quarantines reads all bundles reported for a stream.
func (s *Store) Quarantines(ctx context.Context, id tidegate.StreamID) ([]Quarantine, error) {
	var out []Quarantine
	err := s.list(ctx, bundlesTable+id.String()+"/", func(k Key, v []byte) error {
		var q Quarantine
		if err := json.Unmarshal(v, &q); err != nil {
			return corrupt(k, err)
		}
		out = append(out, q)
		return nil
	})
	return out, err
}

// Tx is one transaction: it writes everything if all conditions hold, and
// nothing otherwise. The zero value is ready to use; not for concurrent use.
type Tx struct {
	ifs  []condition
	puts []put
}

type condition struct {
	key      Key
	revision int64
	creation bool
}

type put struct {
	key    Key
	value  any
	delete bool
}

// Unchanged demands that k was last changed at revision; 0 demands that it does not exist.
func (t *Tx) Unchanged(k Key, revision int64) *Tx {
	t.ifs = append(t.ifs, condition{key: k, revision: revision})
	return t
}

// Leading demands that l still leads.
func (t *Tx) Leading(l *Leadership) *Tx {
	t.ifs = append(t.ifs, condition{key: l.key, revision: l.revision, creation: true})
	return t
}

// Put writes v as JSON, by its own Marshal method if it has one: such a record
// refuses to be written when it breaks its invariants.
func (t *Tx) Put(k Key, v any) *Tx {
	t.puts = append(t.puts, put{key: k, value: v})
	return t
}

// Delete removes k.
func (t *Tx) Delete(k Key) *Tx {
	t.puts = append(t.puts, put{key: k, delete: true})
	return t
}

// Commit does the transaction and returns its revision, which is the new
// revision of every record it put. An error that wraps [tidegate.ErrConflict]
// says that a condition did not hold and nothing was written; after any other
// error the transaction may or may not have been done.
func (s *Store) Commit(ctx context.Context, t *Tx) (revision int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var ifs []clientv3.Cmp
	for _, c := range t.ifs {
		if c.creation {
			ifs = append(ifs, clientv3.Compare(clientv3.CreateRevision(s.key(c.key)), "=", c.revision))
			continue
		}
		ifs = append(ifs, clientv3.Compare(clientv3.ModRevision(s.key(c.key)), "=", c.revision))
	}
	var ops []clientv3.Op
	subject := Key("nothing")
	for _, p := range t.puts {
		subject = p.key
		if p.delete {
			ops = append(ops, clientv3.OpDelete(s.key(p.key)))
			continue
		}
		b, err := encode(p.value)
		if err != nil {
			return 0, &tidegate.Error{Op: "encode record", Subject: string(p.key), Class: tidegate.Permanent, Err: err}
		}
		ops = append(ops, clientv3.OpPut(s.key(p.key), string(b)))
	}
	r, err := s.client.Txn(ctx).If(ifs...).Then(ops...).Else(s.looks(t.ifs)...).Commit()
	if err != nil {
		return 0, s.fail("write", subject, err)
	}
	if !r.Succeeded {
		return 0, &tidegate.Error{Op: "write registry", Subject: string(broken(t.ifs, r)), Class: tidegate.Transient, Err: tidegate.ErrConflict}
	}
	return r.Header.Revision, nil
}

// looks asks where the keys of conditions stand.
func (s *Store) looks(ifs []condition) []clientv3.Op {
	ops := make([]clientv3.Op, 0, len(ifs))
	for _, c := range ifs {
		ops = append(ops, clientv3.OpGet(s.key(c.key), clientv3.WithKeysOnly()))
	}
	return ops
}

// broken returns the key of the first condition that did not hold.
func broken(ifs []condition, r *clientv3.TxnResponse) Key {
	for i, one := range r.Responses {
		var at int64
		for _, kv := range one.GetResponseRange().Kvs {
			if at = kv.ModRevision; ifs[i].creation {
				at = kv.CreateRevision
			}
		}
		if at != ifs[i].revision {
			return ifs[i].key
		}
	}
	return ""
}

func encode(v any) ([]byte, error) {
	if m, ok := v.(interface{ Marshal() ([]byte, error) }); ok {
		return m.Marshal()
	}
	return json.Marshal(v)
}

// Unreachable reports whether err says that the registry did not answer.
func Unreachable(err error) bool {
	var u *unreachableError
	return errors.As(err, &u)
}

type unreachableError struct{ err error }

func (u *unreachableError) Error() string { return u.err.Error() }
func (u *unreachableError) Unwrap() error { return u.err }

func (s *Store) fail(op string, k Key, err error) error {
	e := &tidegate.Error{Op: op + " registry", Subject: string(k), Class: tidegate.Permanent, Err: err}
	switch {
	case errors.Is(err, context.Canceled):
		e.Class = tidegate.Transient
	case errors.Is(err, context.DeadlineExceeded), transientCode(status.Code(err)), errors.Is(err, clientv3.ErrNoAvailableEndpoints):
		e.Class, e.Hint, e.Err = tidegate.Transient, hintUnreachable, &unreachableError{err: err}
	}
	return e
}

func transientCode(c codes.Code) bool {
	return c == codes.Unavailable || c == codes.DeadlineExceeded || c == codes.ResourceExhausted
}

func corrupt(k Key, err error) error {
	return &tidegate.Error{
		Op: "read registry", Subject: string(k), Class: tidegate.Corrupt, Err: err,
		Hint: "the record was not written by this version; compare the gates' versions before anything is written",
	}
}
