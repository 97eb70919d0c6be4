package cluster

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tidegate/tidegate"
)

// Peer is a node of the cluster.
type Peer struct {
	Node tidegate.NodeName
	Raft string // host:port of raft's own protocol
	HTTP string // http://host:port of the ledger's API
}

// Config of a [Cluster].
type Config struct {
	Dir   string            // raft's log and snapshots lie in <Dir>/raft
	Self  tidegate.NodeName // one of Peers
	Peers []Peer            // the whole cluster, this node included

	// Heartbeat is how long a follower waits for its leader before it stands for
	// election, and how long an election may take. Default 1 s for a cluster; a
	// cluster of one waits for nobody and defaults to 50 ms.
	Heartbeat time.Duration
	// SnapshotEntries is how many entries raft keeps before it takes a snapshot. Default 65536.
	SnapshotEntries uint64
	// SnapshotEvery is how often raft looks whether to take one. Default 30 s.
	SnapshotEvery time.Duration
	// TrailingEntries is how many entries stay behind a snapshot for slow followers. Default 10240.
	TrailingEntries uint64
	// EnqueueTimeout bounds how long a command waits for raft to take it in. Default 1 s.
	EnqueueTimeout time.Duration
	// Listen makes the listener of raft's own protocol; nil means TCP.
	Listen func(addr string) (net.Listener, error)
	// BatchEntriesMax bounds the entries applied, and fsynced, together. Default 512.
	BatchEntriesMax int
}

// SetDefaults fills what is zero.
func (c Config) SetDefaults() Config {
	heartbeat := time.Second
	if len(c.Peers) == 1 {
		heartbeat = 50 * time.Millisecond
	}
	def(&c.Heartbeat, heartbeat)
	def(&c.SnapshotEntries, 1<<16)
	def(&c.SnapshotEvery, 30*time.Second)
	def(&c.TrailingEntries, 10240)
	def(&c.EnqueueTimeout, time.Second)
	def(&c.BatchEntriesMax, 512)
	if c.Listen == nil {
		c.Listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	return c
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	var errs []error
	rule := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	rule(c.Dir != "", "dir: want a folder")
	seen := map[tidegate.NodeName]bool{}
	for i, p := range c.Peers {
		rule(tidegate.ValidName(string(p.Node)) == nil, "peers[%d].node: want a name (got %q)", i, p.Node)
		rule(!seen[p.Node], "peers[%d].node: %q is named twice", i, p.Node)
		_, _, err := net.SplitHostPort(p.Raft)
		rule(err == nil, "peers[%d].raft: want host:port (got %q)", i, p.Raft)
		seen[p.Node] = true
	}
	rule(seen[c.Self], "self: %q is not among the peers", c.Self)
	rule(c.Heartbeat >= 5*time.Millisecond, "heartbeat: want at least 5ms (got %s)", c.Heartbeat)
	rule(c.BatchEntriesMax >= 1 && c.BatchEntriesMax <= 4096, "batch-entries-max: want 1 to 4096 (got %d)", c.BatchEntriesMax)
	return errors.Join(errs...)
}

func (c Config) peer(name tidegate.NodeName) (Peer, bool) {
	for _, p := range c.Peers {
		if p.Node == name {
			return p, true
		}
	}
	return Peer{}, false
}
