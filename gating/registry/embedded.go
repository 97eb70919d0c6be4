package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/vfs"
)

// Server is the embedded etcd: one member, reachable through a socket that only
// the gate's user may open. Run may be called once.
type Server struct {
	fs      vfs.FS
	log     *slog.Logger
	cluster string
	cfg     Config
	ready   chan struct{}
}

// NewServer makes a server; it does no I/O.
func NewServer(fsys vfs.FS, log *slog.Logger, cluster string, cfg Config) *Server {
	return &Server{fs: fsys, log: log, cluster: cluster, cfg: cfg, ready: make(chan struct{})}
}

// Ready is closed when the member serves clients.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// memberName and peerURL are part of the member's identity on disk and never
// change. Nobody dials the peer URL of a cluster of one; the peer listener is a
// socket as well, so that no port is opened.
const (
	memberName = "gate"
	peerURL    = "http://127.0.0.1:2380"
)

// startDeadline bounds the wait for the member; replaying its log is the long part.
const startDeadline = time.Minute

// Run serves until ctx ends; nil then. It has stopped the member when it returns.
func (s *Server) Run(ctx context.Context) error {
	fail := func(err error) error {
		return &tidegate.Error{Op: "run embedded registry", Subject: s.cfg.Dir, Class: tidegate.Permanent, Err: err}
	}
	data := filepath.Join(s.cfg.Dir, dataName)
	if err := durable.MkdirAll(s.fs, data); err != nil {
		return fail(err)
	}
	peerSocket := s.cfg.Socket + ".peer"
	for _, p := range []string{s.cfg.Socket, peerSocket} {
		// A killed gate leaves its sockets behind; etcd's lock on its data tells whether another one lives.
		if err := s.fs.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fail(err)
		}
	}
	cfg, err := s.embedConfig(data, peerSocket)
	if err != nil {
		return fail(err)
	}
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fail(err)
	}
	defer etcd.Close()
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return fail(err)
	case <-ctx.Done():
		return nil
	case <-time.After(startDeadline):
		return fail(fmt.Errorf("not ready after %s", startDeadline))
	}
	close(s.ready)
	select {
	case <-ctx.Done():
		return nil
	case err := <-etcd.Err():
		return fail(err)
	case <-etcd.Server.StopNotify():
		return fail(errors.New("member stopped by itself"))
	}
}

// clusterToken goes into the identity of the etcd cluster.
func clusterToken(cluster string) string { return "tidegate-" + cluster }

func (s *Server) embedConfig(data, peerSocket string) (*embed.Config, error) {
	peer, err := url.Parse(peerURL)
	if err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Name = memberName
	cfg.Dir = data
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: s.cfg.Socket}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = []url.URL{{Scheme: "unix", Path: peerSocket}}
	cfg.AdvertisePeerUrls = []url.URL{*peer}
	cfg.InitialCluster = memberName + "=" + peerURL
	cfg.InitialClusterToken = clusterToken(s.cluster)
	cfg.AutoCompactionMode = embed.CompactorModePeriodic
	cfg.AutoCompactionRetention = "1h"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(&slogCore{log: s.log}))
	return cfg, cfg.Validate()
}
