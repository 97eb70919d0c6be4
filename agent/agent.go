package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/api"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/api/tidegatev1/tidegatev1connect"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/internal/pki"
	"github.com/tidegate/tidegate/internal/rates"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/shipper"
	"github.com/tidegate/tidegate/shipper/drop"
	"github.com/tidegate/tidegate/stores"
)

// Deps is what an agent is made of.
type Deps struct {
	FS          vfs.FS
	Clock       clock.Clock
	Credentials *pki.Credentials
	Log         *slog.Logger
	Registry    *prometheus.Registry
	// Source opens the log of one configured stream; no I/O.
	Source  func(StreamConfig) (stores.Source, error)
	BootID  string // of this boot of this machine; see [BootID]
	Version string
	// Connect opens the byte stream of a ship session; nil means TCP.
	Connect func(ctx context.Context, addr string) (net.Conn, error)
	// Drop is the bucket to cross by when nothing crosses live; nil: there is none.
	Drop bucket.Bucket
}

// Agent is one run of the agent. Its holder id is drawn by New: a start is a
// change of writer.
type Agent struct {
	cfg      Config
	fs       vfs.FS
	clk      clock.Clock
	cred     *pki.Credentials
	log      *slog.Logger
	reg      *prometheus.Registry
	connect  func(ctx context.Context, addr string) (net.Conn, error)
	drop     *drop.Drop // nil: nothing crosses by an archive
	reach    readiness  // of drop
	bootID   string
	version  string
	holder   tidegate.HolderID
	metrics  *metrics
	gate     *gateClient
	streams  []*stream
	services map[tidegate.ServiceName]*service
	rates    *rates.Rates
	pauses   pauses

	predecessor tidegate.HolderID // of the run before this one, on this boot; set once by Run
	ready       chan struct{}
	addr        net.Addr // of /metrics and /status; set before ready is closed
}

// New makes an agent from a configuration that has its defaults and is valid.
func New(cfg Config, d Deps) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if id := d.Credentials.Identity(); id.Role != tidegate.RoleAgent || id.Name != string(cfg.Node.Name) || id.Site != cfg.Node.Site || id.Cluster != cfg.Node.Cluster {
		return nil, &tidegate.Error{
			Op: "start agent", Subject: string(cfg.Node.Name), Class: tidegate.Misuse,
			Hint: "the certificate decides who a node is; issue one for this node or correct node.*",
			Err:  fmt.Errorf("certificate is of %s, configuration says tidegate://%s/%s/agent/%s", id, cfg.Node.Cluster, cfg.Node.Site, cfg.Node.Name),
		}
	}
	a := &Agent{
		cfg: cfg, fs: d.FS, clk: d.Clock, cred: d.Credentials, reg: d.Registry, connect: d.Connect,
		bootID: d.BootID, version: d.Version, holder: tidegate.NewID(),
		services: map[tidegate.ServiceName]*service{}, ready: make(chan struct{}),
	}
	a.log = d.Log.With("component", "agent", "node", string(cfg.Node.Name))
	a.metrics = newMetrics(d.Registry)
	a.rates = rates.New(cfg.RatesDir, d.Clock, a.log, rates.For(rates.DaemonAgent))
	d.Registry.MustRegister(a.rates)
	if d.Drop != nil && !cfg.Drop.Off {
		a.drop = drop.New(d.Drop, drop.Config{Every: cfg.Drop.Every})
	}
	for _, sc := range cfg.Streams {
		src, err := d.Source(sc)
		if err != nil {
			return nil, fmt.Errorf("stream %s/%s: %w", sc.Service, sc.Stream, err)
		}
		s := newStream(a, sc, src)
		if a.drop != nil {
			s.crossing.use(a.drop, cfg.Drop)
		}
		a.streams = append(a.streams, s)
		v := a.services[sc.Service]
		if v == nil {
			v = newService(a, sc.Service)
			a.services[sc.Service] = v
		}
		s.service = v
		v.streams = append(v.streams, s)
	}
	watch := &pb.WatchRequest{
		Node: string(cfg.Node.Name), Kind: pb.NodeKind_NODE_KIND_AGENT, Site: string(cfg.Node.Site), Holder: api.IDText(a.holder),
	}
	for name := range a.services {
		watch.Services = append(watch.Services, string(name))
	}
	a.gate = newGateClient(d.Credentials, cfg.Gates, watch, a.log, a.show)
	d.Registry.MustRegister(collector{a})
	return a, nil
}

// Holder returns the id of this run.
func (a *Agent) Holder() tidegate.HolderID { return a.holder }

// Ready is closed once the local address answers.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Addr returns where /metrics and /status answer; valid once Ready is closed.
func (a *Agent) Addr() string { return a.addr.String() }

// Run works until ctx ends, then returns nil; any other return is a failure
// after which the process must not go on. It may be called once.
func (a *Agent) Run(ctx context.Context) (err error) {
	unlock, err := a.takeOver()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock.Close()) }()
	ln, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	a.addr = ln.Addr()
	if a.drop != nil {
		defer a.drop.Wait() // for what was written last; every session is closed then
	}
	a.rates.Read() // an agent that a file has stopped starts stopped
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.serve(ctx, ln) })
	g.Go(func() error { return a.gate.run(ctx) })
	g.Go(func() error { return a.reportAll(ctx) })
	g.Go(func() error { return a.rates.Run(ctx) })
	g.Go(func() error { return a.watchPauses(ctx) })
	g.Go(func() error { return a.reach.keep(ctx, a.drop, a.cfg.Node.Name) })
	for _, s := range a.streams {
		g.Go(func() error { return s.run(ctx) })
	}
	for _, v := range a.services {
		g.Go(func() error { return v.run(ctx) })
	}
	close(a.ready)
	a.log.Info("agent started", "holder", a.holder.String(), "streams", len(a.streams))
	err = g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// lastRun is what a run leaves behind for the next one.
type lastRun struct {
	Version int               `json:"version"` // 1
	Holder  tidegate.HolderID `json:"holder"`
	BootID  string            `json:"boot_id"`
}

// takeOver takes the data directory's lock, which proves that an earlier run
// on this boot is dead, and leaves this run's holder id for the next one.
func (a *Agent) takeOver() (io.Closer, error) {
	if err := durable.MkdirAll(a.fs, a.cfg.DataDir); err != nil {
		return nil, err
	}
	lock, err := a.fs.Lock(filepath.Join(a.cfg.DataDir, "lock"))
	if err != nil {
		return nil, &tidegate.Error{
			Op: "start agent", Subject: a.cfg.DataDir, Class: tidegate.Misuse, Err: err,
			Hint: "another agent runs with this data directory",
		}
	}
	if err := a.inherit(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

func (a *Agent) inherit() error {
	if err := durable.SweepTemp(a.fs, a.cfg.DataDir); err != nil {
		return err
	}
	path := filepath.Join(a.cfg.DataDir, "run.json")
	f, err := a.fs.Open(path)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
	case err != nil:
		return err
	default:
		text, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		var last lastRun
		if err := json.Unmarshal(text, &last); err != nil || last.Version != 1 {
			// Not knowing the predecessor only costs a wait.
			a.log.Warn("last run's file is not readable", "path", path, "err", err)
		} else if last.BootID == a.bootID && a.bootID != "" {
			a.predecessor = last.Holder
		}
	}
	text, err := json.Marshal(lastRun{Version: 1, Holder: a.holder, BootID: a.bootID})
	if err != nil {
		return err
	}
	return durable.WriteFile(a.fs, path, text)
}

// show gives the gate's view to the streams.
func (a *Agent) show(v *view) {
	for _, s := range a.streams {
		s.show(v.services[s.cfg.Service].streams[s.cfg.Stream], v.nodes)
	}
}

// poke makes a service look whether an epoch is due.
func (a *Agent) poke(name tidegate.ServiceName) { wake(a.services[name].changed) }

// dialer returns what opens ship sessions with one standby node.
func (a *Agent) dialer(node tidegate.NodeName, limits shipper.Limits) shipper.Dialer {
	return shipper.Dialer{
		TLS:   a.cred.ClientTLS(pki.Expect{Role: tidegate.RoleStandby, Name: string(node)}),
		Clock: a.clk, Connect: a.connect, Limits: limits.SetDefaults(),
	}
}

// relayLimits are a writer's patience with its relay. Nobody is acknowledged
// while a relay hangs, so where another member could relay, one that has not
// said a word for as long as four time exchanges take is left for it; a relay
// left too soon costs one dial. A member that stands alone has no successor.
func relayLimits(members int) shipper.Limits {
	if members < 2 {
		return shipper.Limits{}
	}
	return shipper.Limits{KeepaliveEvery: 400 * time.Millisecond, IdleTimeout: 1600 * time.Millisecond, HandshakeTimeout: 3 * time.Second}
}

// reportAll tells the gate each second how the streams are.
func (a *Agent) reportAll(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if reached, _, _ := a.gate.state(); !reached {
			continue
		}
		// The watch notices a gate that is gone; a report that is lost is
		// replaced by the next.
		_, err := call(ctx, a.gate, "report", callTimeout, a.report(),
			func(c tidegatev1connect.NodeServiceClient, ctx context.Context, r *connect.Request[pb.ReportAgentRequest]) (*connect.Response[pb.ReportAgentResponse], error) {
				return c.ReportAgent(ctx, r)
			})
		if err != nil && ctx.Err() == nil {
			a.log.Debug("report not taken", "err", err)
		}
	}
}

// serve answers /metrics and /status until ctx ends.
func (a *Agent) serve(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(a.Status()) // the client is gone
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // Serve reports it
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("agent: %w", err)
	}
	return nil
}
