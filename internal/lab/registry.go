package lab

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/tidegate/tidegate/gating/registry"
)

// Registry is an etcd of one member in this process: an existing cluster that
// gates share, and that can go away and come back. Not safe for concurrent use.
type Registry struct {
	Endpoint string // for Plant.Etcd

	cfg     *embed.Config
	running *embed.Etcd
}

// Records opens what a lab's gates have on record in it, for a caller who lets more time
// pass there than goes by. The caller closes it.
func (r *Registry) Records() (*registry.Store, error) {
	return registry.Open(cluster, registry.Config{Endpoints: []string{r.Endpoint}}.SetDefaults())
}

// registryReady bounds how long an etcd of one member takes to serve.
const registryReady = time.Minute

// NewRegistry starts one in dir.
func NewRegistry(dir string) (*Registry, error) {
	addr, err := FreeAddr()
	if err != nil {
		return nil, err
	}
	client := url.URL{Scheme: "http", Host: addr}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	// Sites with networks of their own come from other addresses.
	all := url.URL{Scheme: "http", Host: net.JoinHostPort("0.0.0.0", port)}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"} // its name only: a cluster of one dials nobody
	cfg := embed.NewConfig()
	// Going away while gates are connected is what it is for: "panic" keeps it from complaining.
	cfg.Name, cfg.Dir, cfg.LogLevel = "shared", filepath.Join(dir, "etcd"), "panic"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{all}, []url.URL{client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(dir, "peer.sock")}}, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	r := &Registry{Endpoint: client.String(), cfg: cfg}
	return r, r.Start()
}

// Start starts it again with what it held when it was stopped.
func (r *Registry) Start() error {
	running, err := embed.StartEtcd(r.cfg)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	r.running = running
	select {
	case <-running.Server.ReadyNotify():
		return nil
	case err := <-running.Err():
		return fmt.Errorf("start etcd: %w", err)
	case <-time.After(registryReady):
		r.Stop()
		return errors.New("start etcd: not ready after " + registryReady.String())
	}
}

// Stop ends it; what it holds stays in its directory.
func (r *Registry) Stop() {
	if r.running != nil {
		r.running.Close()
		r.running = nil
	}
}
