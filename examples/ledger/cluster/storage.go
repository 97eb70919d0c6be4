package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	snapshotsKept  = 2
	transportPool  = 3
	transportLimit = 10 * time.Second
	logsCached     = 1024
)

// storage is everything raft writes to and speaks through.
type storage struct {
	bolt      *raftboltdb.BoltStore
	cache     *raft.LogCache
	snapshots *raft.FileSnapshotStore
	transport *raft.NetworkTransport
	existing  bool
}

func raftDir(dir string) string      { return filepath.Join(dir, "raft") }
func snapshotsDir(dir string) string { return filepath.Join(raftDir(dir), "snapshots") }

// openStores opens what lies on disk.
func openStores(log *slog.Logger, dir string) (*raftboltdb.BoltStore, *raft.FileSnapshotStore, error) {
	fsys := vfs.OS()
	if err := durable.MkdirAll(fsys, snapshotsDir(dir)); err != nil {
		return nil, nil, fmt.Errorf("open raft store: %w", err)
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(raftDir(dir), "raft.db"),
		// A second process on the same folder is a mistake to report, not to wait for.
		BoltOptions: &bbolt.Options{Timeout: time.Second},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open raft log %s: %w", dir, err)
	}
	// bbolt syncs its file, not the name of the file.
	if err := fsys.SyncDir(raftDir(dir)); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open raft log: %w", err), bolt.Close())
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(raftDir(dir), snapshotsKept, raftLog(log))
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open raft snapshots: %w", err), bolt.Close())
	}
	return bolt, snapshots, nil
}

func openStorage(log *slog.Logger, cfg Config) (*storage, error) {
	self, _ := cfg.peer(cfg.Self) // validated
	bolt, snapshots, err := openStores(log, cfg.Dir)
	if err != nil {
		return nil, err
	}
	st := &storage{bolt: bolt, snapshots: snapshots}
	if st.cache, err = raft.NewLogCache(logsCached, bolt); err != nil {
		return nil, errors.Join(fmt.Errorf("open raft log: %w", err), bolt.Close())
	}
	if st.existing, err = raft.HasExistingState(bolt, bolt, snapshots); err != nil {
		return nil, errors.Join(fmt.Errorf("read raft log: %w", err), bolt.Close())
	}
	ln, err := cfg.Listen(self.Raft)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen for raft: %w", err), bolt.Close())
	}
	st.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: &streamLayer{Listener: ln, addr: raft.ServerAddress(self.Raft), conns: map[net.Conn]struct{}{}}, MaxPool: transportPool,
		Timeout: transportLimit, Logger: raftLog(log),
	})
	return st, nil
}

// close ends the connections of both directions too: raft's own Close leaves
// its pool and the peers' idle connections open.
func (st *storage) close() error {
	st.transport.CloseStreams()
	return errors.Join(st.transport.Close(), st.bolt.Close())
}

// streamLayer is raft's transport over a listener that we chose. It closes the
// connections it accepted when it is closed.
type streamLayer struct {
	net.Listener
	addr raft.ServerAddress

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// Accept implements [net.Listener].
func (s *streamLayer) Accept() (net.Conn, error) {
	nc, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(net.ErrClosed, nc.Close())
	}
	s.conns[nc] = struct{}{}
	return &acceptedConn{Conn: nc, layer: s}, nil
}

// Close implements [net.Listener].
func (s *streamLayer) Close() error {
	err := s.Listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for nc := range s.conns {
		_ = nc.Close() // its reader learns by the error
	}
	clear(s.conns)
	return err
}

// acceptedConn leaves its layer's list when raft closes it.
type acceptedConn struct {
	net.Conn
	layer *streamLayer
}

// Close implements [net.Conn].
func (c *acceptedConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.conns, c.Conn)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// Dial implements [raft.StreamLayer].
func (*streamLayer) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(addr), timeout)
}

// Addr implements [net.Listener]: raft announces it to the others, so it is the
// configured name and not what the listener was bound to.
func (s *streamLayer) Addr() net.Addr { return peerAddr(s.addr) }

type peerAddr string

func (peerAddr) Network() string  { return "tcp" }
func (a peerAddr) String() string { return string(a) }

// Exists reports whether dir holds the state of a cluster: a node that was
// promoted before it was restarted is a primary from then on.
func Exists(dir string) (bool, error) {
	fsys := vfs.OS()
	names, err := fsys.List(snapshotsDir(dir))
	if errors.Is(err, tidegate.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for raft snapshots: %w", err)
	}
	for _, n := range names {
		info, err := fsys.Stat(filepath.Join(snapshotsDir(dir), n))
		if err != nil {
			return false, fmt.Errorf("look for raft snapshots: %w", err)
		}
		if info.Dir && filepath.Ext(n) != ".tmp" {
			return true, nil
		}
	}
	return false, nil
}

// Blank reports whether dir holds nothing that a cluster has agreed upon: no state, or
// what is left of a seed that was cut short.
func Blank(log *slog.Logger, dir string) (blank bool, err error) {
	if there, err := Exists(dir); there || err != nil {
		return false, err
	}
	if _, err := vfs.OS().Stat(raftDir(dir)); errors.Is(err, tidegate.ErrNotFound) {
		return true, nil
	}
	bolt, _, err := openStores(log, dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, bolt.Close()) }()
	last, err := bolt.LastIndex()
	if err != nil {
		return false, fmt.Errorf("read raft log: %w", err)
	}
	return last == 0, nil
}

// leftPrefix begins the names of the folders that Retire makes.
const leftPrefix = "raft-left-"

// Left reports whether the last thing that happened in dir is that a cluster was
// left: see [Retire].
func Left(dir string) (bool, error) {
	names, err := vfs.OS().List(dir)
	if errors.Is(err, tidegate.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for raft's state: %w", err)
	}
	left := false
	for _, n := range names {
		if n == filepath.Base(raftDir(dir)) {
			return false, nil
		}
		left = left || strings.HasPrefix(n, leftPrefix)
	}
	return left, nil
}

// Retire moves the state of a cluster aside, within dir, and returns where to;
// [Exists] is false from then on. Nothing of it is needed again: the journals
// hold the history, and what is not theirs was never acknowledged. The cluster
// must not be running.
func Retire(dir string) (aside string, err error) {
	fsys := vfs.OS()
	aside = filepath.Join(dir, leftPrefix+tidegate.NewID().String())
	switch err := fsys.Rename(raftDir(dir), aside); {
	case errors.Is(err, tidegate.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("move raft's state aside: %w", err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return "", fmt.Errorf("move raft's state aside: %w", err)
	}
	return aside, nil
}

// Seed writes the state of a one-node cluster whose history so far is the books
// as they are now: a raft snapshot at index 1. When it returned, [Exists] is true
// for ever; when the process dies before that, nothing has happened yet. The
// books must not change meanwhile, nor until [Cluster.Run] has begun, which does
// not read back what it finds in memory.
func (c *Cluster) Seed() (err error) {
	self, _ := c.cfg.peer(c.cfg.Self) // validated
	bolt, snapshots, err := openStores(c.log, c.cfg.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bolt.Close()) }()
	// The snapshot claims term 1, so no election may ever hand out term 1 again.
	if err := bolt.SetUint64([]byte("CurrentTerm"), seedTerm); err != nil {
		return fmt.Errorf("seed raft: %w", err)
	}
	conf := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(self.Node), Address: raft.ServerAddress(self.Raft)}}}
	sink, err := snapshots.Create(raft.SnapshotVersionMax, seedIndex, seedTerm, conf, seedIndex, seedTransport{})
	if err != nil {
		return fmt.Errorf("seed raft: %w", err)
	}
	if err := snapshot(encodeBooks(c.shelf)).Persist(sink); err != nil {
		return fmt.Errorf("seed raft: %w", err)
	}
	c.seeded = true
	return nil
}

const (
	seedIndex = 1
	seedTerm  = 1
)

// seedTransport spells peers' addresses for a snapshot; raft asks nothing else
// of a transport there.
type seedTransport struct{ raft.Transport }

// EncodePeer implements [raft.Transport].
func (seedTransport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }
