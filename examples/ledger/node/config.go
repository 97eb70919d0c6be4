package node

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/cluster"
)

// Config of a [Node].
type Config struct {
	Name     tidegate.NodeName
	Service  tidegate.ServiceName
	History  string // name of the ledger's history, the same on every node of every site; default Service
	Dir      string
	HTTP     string         // host:port to listen on
	Follow   bool           // begin as a standby
	Return   bool           // begin as a primary, and follow through the standby node's daemon here while another site serves
	Peers    []cluster.Peer // of a primary: all nodes of its cluster; of a standby: itself, for the time after a promotion
	RunDir   string         // run folder of the Tidegate daemons on this machine; empty: none, and nothing is ever released
	Receipts int            // how many receipts each book keeps for GET /receipts, at least; 0: none
	Cluster  cluster.Config // its tunables; Dir, Self and Peers are set by the node

	// ShutdownTimeout bounds how long requests in flight may take when the node stops. Default 2 s.
	ShutdownTimeout time.Duration
	// Listen makes the HTTP listener; nil means TCP.
	Listen func(addr string) (net.Listener, error)
}

// SetDefaults fills what is zero.
func (c Config) SetDefaults() Config {
	if c.History == "" {
		c.History = string(c.Service)
	}
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = 2 * time.Second
	}
	if c.Listen == nil {
		c.Listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	c.Cluster.Dir, c.Cluster.Self, c.Cluster.Peers = c.Dir, c.Name, c.Peers
	c.Cluster = c.Cluster.SetDefaults()
	return c
}

// Validate reports every broken rule.
func (c Config) Validate() error {
	var errs []error
	rule := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	rule(tidegate.ValidName(string(c.Name)) == nil, "name: want a name (got %q)", c.Name)
	rule(tidegate.ValidName(string(c.Service)) == nil, "service: want a name (got %q)", c.Service)
	_, _, err := net.SplitHostPort(c.HTTP)
	rule(err == nil, "http: want host:port (got %q)", c.HTTP)
	rule(c.Receipts >= 0, "receipts: want a number, from 0 on (got %d)", c.Receipts)
	rule(!c.Follow || c.RunDir != "", "run: want the daemons' run folder: a standby follows through the socket there")
	rule(!c.Return || c.RunDir != "", "run: want the daemons' run folder: a primary that comes back follows through the socket there")
	rule(!c.Follow || !c.Return, "return: a standby comes back by itself")
	rule(!c.Follow || len(c.Peers) == 1, "peers: want only this node: a standby is promoted to a cluster of one (got %d)", len(c.Peers))
	for i, p := range c.Peers {
		rule(strings.HasPrefix(p.HTTP, "http://"), "peers[%d].http: want http://host:port (got %q)", i, p.HTTP)
	}
	if err := c.Cluster.Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ParsePeer parses name=raft-host:port,http-host:port.
func ParsePeer(s string) (cluster.Peer, error) {
	name, rest, ok := strings.Cut(s, "=")
	raftAddr, httpAddr, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 {
		return cluster.Peer{}, fmt.Errorf("parse peer %q: want name=raft-host:port,http-host:port", s)
	}
	for _, addr := range []string{raftAddr, httpAddr} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return cluster.Peer{}, fmt.Errorf("parse peer %q: %w", s, err)
		}
	}
	if err := tidegate.ValidName(name); err != nil {
		return cluster.Peer{}, fmt.Errorf("parse peer %q: %w", s, err)
	}
	return cluster.Peer{Node: tidegate.NodeName(name), Raft: raftAddr, HTTP: "http://" + httpAddr}, nil
}
