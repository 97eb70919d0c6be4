package standby

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive"
	"github.com/tidegate/tidegate/archive/bucket"
	"github.com/tidegate/tidegate/internal/durable"
	"github.com/tidegate/tidegate/shipper"
)

// Standby is one standby node.
type Standby struct {
	cfg      Config
	deps     Deps
	metrics  *metrics
	limits   limits
	syncer   *syncer
	ready    chan struct{} // closed when the node serves
	stopped  chan struct{} // closed when Run begins to end
	stopping sync.Once
	changed  bell          // the view has changed
	bucket   bucket.Bucket // of the archive; nil: there is none. Set before any stream is opened
	buffers  archive.Buffers
	drop     atomic.Pointer[dropEnd] // nil: no session crosses by the archive; set once by Run
	urgent   bell                    // the gate waits for what the next report says
	full     atomic.Bool             // too little room on the disk for batches
	disk     atomic.Pointer[diskState]
	grows    atomic.Pointer[float64] // bytes per second; nil until measured

	file NodeFile // read at the start; after that only the goroutine of Run changes it

	mu      sync.Mutex
	cancel  context.CancelCauseFunc // of Run
	streams map[tidegate.StreamID]*stream
	view    View
	heard   map[tidegate.NodeName]string // ship addresses that came with a request
	ship    string                       // how others reach this node
	api     string
}

// diskState is what the data directory's file system and quarantine hold.
type diskState struct {
	free, total uint64
	quarantined int64 // bytes
	perStream   map[tidegate.StreamID]int64
}

// New does no I/O. The configuration must be valid.
func New(cfg Config, deps Deps) (*Standby, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("standby: %w", err)
	}
	n := &Standby{
		cfg: cfg, deps: deps,
		syncer: newSyncer(), ready: make(chan struct{}), stopped: make(chan struct{}), changed: newBell(), urgent: newBell(),
		streams: map[tidegate.StreamID]*stream{},
		heard:   map[tidegate.NodeName]string{},
	}
	n.buffers = archive.NewBuffers(archiveBuffers)
	n.metrics, n.limits = newMetrics(deps.Registry, n), newLimits(cfg, deps)
	return n, nil
}

// Ready is closed when the node serves.
func (n *Standby) Ready() <-chan struct{} { return n.ready }

// Identity returns how the node presents itself to the gate. Valid once Ready.
func (n *Standby) Identity() NodeView {
	n.mu.Lock()
	defer n.mu.Unlock()
	return NodeView{Node: n.cfg.Node, Site: n.cfg.Site, Incarnation: n.file.Incarnation, Ship: n.ship, API: n.api}
}

// Run serves until ctx ends, and returns nil then. Another error stopped the
// node for good: the data directory is not formatted or in use, or a disk has
// failed. It may be called once.
func (n *Standby) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	n.mu.Lock()
	n.cancel = cancel
	n.mu.Unlock()
	lock, err := n.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	defer n.closeStreams()
	if n.deps.Archive != nil {
		if n.bucket, err = n.deps.Archive(ctx, n.limits.archive); err != nil {
			return fmt.Errorf("open archive: %w", err)
		}
	}
	if err := n.openDrop(ctx); err != nil {
		return err
	}
	shipLn, apiLn, err := n.listen(ctx)
	if err != nil {
		return err
	}
	server, err := shipper.NewServer(shipper.ServerConfig{
		TLS: n.deps.ShipServe, Node: n.cfg.Node, Limits: n.cfg.Limits,
		Clock: n.deps.Clock, Log: n.deps.Log, Refused: n.metrics.refuse,
	}, n)
	if err != nil {
		return errors.Join(err, shipLn.Close(), apiLn.Close())
	}
	n.disk.Store(&diskState{})
	if err := n.look(); err != nil {
		return errors.Join(err, shipLn.Close(), apiLn.Close())
	}
	n.limits.files.Read() // a node that was stopped by a file must not start with a gush
	g, gctx := errgroup.WithContext(ctx)
	halt := func() { n.stopping.Do(func() { close(n.stopped) }) }
	defer halt()
	unwatch := context.AfterFunc(gctx, halt)
	defer unwatch()
	g.Go(func() error { return server.Serve(gctx, shipLn) })
	g.Go(func() error { return n.serveDrop(gctx) })
	g.Go(func() error { return n.serveAPI(gctx, apiLn) })
	g.Go(func() error { return n.syncer.run(gctx) })
	g.Go(func() error { return n.limits.files.Run(gctx) })
	g.Go(func() error { return n.deps.Directory.Watch(gctx, n.Identity(), n.see) })
	g.Go(func() error { return n.report(gctx) })
	g.Go(func() error { return n.watchDisk(gctx) })
	g.Go(func() error { return n.keepStreams(gctx, g) })
	err = g.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		err = cause
	}
	if err != nil {
		n.deps.Log.Error("node stops", keyErr, err)
		return fmt.Errorf("standby node %s: %w", n.cfg.Node, err)
	}
	return nil
}

// stop ends Run with err: what is on the disk is not known any more.
func (n *Standby) stop(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cancel(err)
}

// open takes the data directory.
func (n *Standby) open() (lock interface{ Close() error }, err error) {
	if n.file, err = ReadNodeFile(n.deps.FS, n.cfg.DataDir); err != nil {
		return nil, err
	}
	if n.file.Node != n.cfg.Node {
		return nil, &tidegate.Error{
			Op: "open", Subject: n.cfg.DataDir, Class: tidegate.Misuse,
			Hint: "the directory was formatted for another node; check data_dir and node in the configuration",
			Err:  fmt.Errorf("is of node %s, this is %s", n.file.Node, n.cfg.Node),
		}
	}
	lock, err = n.deps.FS.Lock(filepath.Join(n.cfg.DataDir, lockFileName))
	if err != nil {
		return nil, &tidegate.Error{Op: "lock", Subject: n.cfg.DataDir, Class: tidegate.Misuse, Hint: "another process has the directory open", Err: err}
	}
	if err := durable.SweepTemp(n.deps.FS, n.cfg.DataDir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	// The view is a copy: without it the node waits for the gate, with it the
	// streams flow on at once.
	v, err := readView(n.deps.FS, filepath.Join(n.cfg.DataDir, viewFileName))
	if err != nil {
		n.deps.Log.Warn("last view is not readable, waiting for the gate", keyErr, err)
		v = View{}
	}
	n.mu.Lock()
	n.view = v
	n.mu.Unlock()
	return lock, nil
}

func (n *Standby) listen(ctx context.Context) (shipLn, apiLn net.Listener, err error) {
	var lc net.ListenConfig
	if shipLn, err = lc.Listen(ctx, "tcp", n.cfg.ShipListen); err != nil {
		return nil, nil, fmt.Errorf("listen for ship sessions: %w", err)
	}
	if apiLn, err = lc.Listen(ctx, "tcp", n.cfg.APIListen); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("listen for the api: %w", err), shipLn.Close())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ship, n.api = n.cfg.ShipPublic, n.cfg.APIPublic
	if n.ship == "" {
		n.ship = shipLn.Addr().String()
	}
	if n.api == "" {
		n.api = apiLn.Addr().String()
	}
	return shipLn, apiLn, nil
}

// see takes a view of the gate's. A gap that was ever accepted stays, although a registry
// that came back out of a backup, or a gate of an older version, does not say it.
func (n *Standby) see(v View) {
	n.mu.Lock()
	old := n.view
	n.mu.Unlock()
	v.remember(old)
	if err := writeView(n.deps.FS, filepath.Join(n.cfg.DataDir, viewFileName), v); err != nil {
		// The file only spares the wait for a gate after a restart.
		n.deps.Log.Warn("view is not kept", keyErr, err)
	}
	for i := range v.Streams {
		v.Streams[i].fresh = true
	}
	n.mu.Lock()
	n.view = v
	n.mu.Unlock()
	n.changed.ring()
}

// keepStreams opens what the node has a part in and what its disk holds, and
// keeps both in step with the view. Streams are never closed while it runs.
func (n *Standby) keepStreams(ctx context.Context, g *errgroup.Group) error {
	if err := n.openFound(ctx, g); err != nil {
		return err
	}
	for first := true; ; first = false {
		n.mu.Lock()
		v := n.view
		n.mu.Unlock()
		sites := v.sites()
		for _, sv := range v.Streams {
			if err := n.keepStream(ctx, g, sv, sites); err != nil {
				return err
			}
		}
		if first {
			close(n.ready)
			id := n.Identity()
			n.deps.Log.Info("serving", "ship", id.Ship, "api", id.API, "incarnation", id.Incarnation.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-n.changed:
		}
	}
}

// openFound opens every stream that has a directory, known to the gate or not:
// a gate that lost its registry asks for exactly these.
func (n *Standby) openFound(ctx context.Context, g *errgroup.Group) error {
	names, err := n.deps.FS.List(filepath.Join(n.cfg.DataDir, "streams"))
	if err != nil && !errors.Is(err, tidegate.ErrNotFound) {
		return fmt.Errorf("list streams: %w", err)
	}
	for _, name := range names {
		id, err := tidegate.ParseID(name)
		if err != nil {
			return fmt.Errorf("list streams: %w", err)
		}
		if err := durable.SweepTemp(n.deps.FS, streamDir(n.cfg.DataDir, id)); err != nil {
			return err
		}
		n.mu.Lock()
		sv, known := n.view.stream(id)
		n.mu.Unlock()
		if !known {
			sv = StreamView{ID: id}
		}
		if err := n.startStream(ctx, g, sv); err != nil {
			return err
		}
	}
	return nil
}

func (n *Standby) keepStream(ctx context.Context, g *errgroup.Group, v StreamView, sites map[tidegate.NodeName]tidegate.SiteName) error {
	s := n.stream(v.ID)
	if s == nil {
		if !v.keeps(n.cfg.Node) {
			return nil
		}
		if err := n.startStream(ctx, g, v); err != nil {
			return err
		}
		s = n.stream(v.ID)
	}
	if err := s.attendSource(v); err != nil {
		return err
	}
	s.update(v, sites)
	if !s.serving && s.fault == nil && n.cfg.RunDir != "" {
		s.serving = true
		g.Go(func() error { return s.serveLibraries(ctx, v.Service, v.Name) })
	}
	return nil
}

func (n *Standby) startStream(ctx context.Context, g *errgroup.Group, v StreamView) error {
	s, err := n.openStream(ctx, v)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.streams[v.ID] = s
	n.mu.Unlock()
	if s.fault == nil {
		g.Go(func() error { return s.run(ctx) })
	}
	return nil
}

func (n *Standby) closeStreams() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.streams {
		if err := s.close(); err != nil {
			// Everything acknowledged is synced; nothing depends on the close.
			s.lg.Warn("close log", keyErr, err)
		}
	}
}

func (n *Standby) stream(id tidegate.StreamID) *stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.streams[id]
}

func (n *Standby) all() []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]*stream, 0, len(n.streams))
	for _, s := range n.streams {
		list = append(list, s)
	}
	return list
}

// served returns a stream that has a core.
func (n *Standby) served(op string, id tidegate.StreamID) (*stream, error) {
	s := n.stream(id)
	if s == nil {
		return nil, &tidegate.Error{
			Op: op, Subject: id.String(), Class: tidegate.Transient, Err: tidegate.ErrNotFound,
			Hint: "the node has not heard of the stream yet; is it a member?",
		}
	}
	if s.fault != nil {
		return s, s.fault
	}
	return s, nil
}

const (
	diskEvery       = time.Second
	quarantineEvery = 30 // of diskEvery: it walks a directory tree
	reportEvery     = time.Second
	reportTimeout   = 3 * time.Second
)

// watchDisk keeps an eye on the room that is left.
func (n *Standby) watchDisk(ctx context.Context) error {
	tick := time.NewTicker(diskEvery)
	defer tick.Stop()
	var logs growth
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		logs.add(n.deps.Clock.Boot(), n.logBytes())
		var rate *float64
		if r, known := logs.rate(); known {
			rate = &r
		}
		n.grows.Store(rate)
		if i%quarantineEvery == 0 {
			if err := n.look(); err != nil {
				n.deps.Log.Warn("look at disk", keyErr, err)
			}
			continue
		}
		n.room(*n.disk.Load())
	}
}

// logBytes adds up the logs.
func (n *Standby) logBytes() (sum int64) {
	for _, s := range n.all() {
		if s.log != nil {
			sum += s.log.Bytes()
		}
	}
	return sum
}

// look measures quarantine and room.
func (n *Standby) look() error {
	d := diskState{perStream: map[tidegate.StreamID]int64{}}
	for _, s := range n.all() {
		held, err := treeBytes(n.deps.FS, quarantineDir(n.cfg.DataDir, s.id))
		if err != nil {
			return err
		}
		d.perStream[s.id] = held
	}
	var err error
	if d.quarantined, err = n.quarantined(); err != nil {
		return err
	}
	n.room(d)
	return nil
}

// report tells the gate each second how the node is, and at once what it waits for.
func (n *Standby) report(ctx context.Context) error {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.urgent:
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, reportTimeout)
		err := n.deps.Directory.Report(call, n.Status())
		cancel()
		if err != nil {
			// The gate notices a silent node by itself; the next report says all of it again.
			n.deps.Log.Debug("report to gate", keyErr, err)
		}
	}
}

// room measures what is left on the disk, and closes or opens the node for batches.
func (n *Standby) room(d diskState) {
	free, total, err := n.deps.FS.Free(n.cfg.DataDir)
	if err != nil {
		n.deps.Log.Warn("look at disk", keyErr, err)
		return
	}
	d.free, d.total = free, total
	n.disk.Store(&d)
	full := free < n.cfg.FreeBytesMin
	if n.full.Swap(full) != full {
		n.deps.Log.Warn("room on disk", "full", full, "free_bytes", free, "free_bytes_min", n.cfg.FreeBytesMin)
	}
}

// tightTimes is how often [Config.FreeBytesMin] must fit on the disk for log to be
// kept for the archive. Not a share of the disk: of a large one a tenth is days of
// log, of which the archive would be robbed long before anybody has to wait.
const tightTimes = 4

// tight reports whether the disk is nearly full: a little more, and batches are refused.
func (n *Standby) tight() bool {
	d := n.disk.Load()
	return d != nil && d.total > 0 && d.free/tightTimes < n.cfg.FreeBytesMin // total is 0: it is not known
}

// quarantined adds up what lies in quarantine.
func (n *Standby) quarantined() (int64, error) {
	return treeBytes(n.deps.FS, quarantineRoot(n.cfg.DataDir))
}
