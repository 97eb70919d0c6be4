package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
)

// ErrNotLeader says that another node takes commands, or none does.
var ErrNotLeader = errors.New("this node does not lead")

// Cluster is this node's part in the raft cluster.
type Cluster struct {
	cfg     Config
	log     *slog.Logger
	shelf   *book.Shelf
	machine *machine
	seeded  bool // by Seed: the books are what raft's snapshot holds

	raft     atomic.Pointer[raft.Raft] // nil before Run is up and after it ended
	serving  atomic.Bool
	door     door          // of Submit
	restored chan struct{} // closed when the states are those of raft's snapshot
	ready    chan struct{} // closed the first time this node serves
}

// New returns a cluster over the books. It does no I/O.
func New(log *slog.Logger, shelf *book.Shelf, hc *http.Client, cfg Config) (*Cluster, error) {
	cfg = cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, &tidegate.Error{Op: "configure cluster", Class: tidegate.Misuse, Err: err}
	}
	c := &Cluster{
		cfg: cfg, log: log, shelf: shelf, machine: newMachine(shelf),
		restored: make(chan struct{}), ready: make(chan struct{}),
	}
	f := &fetcher{log: log, http: hc}
	for _, p := range cfg.Peers {
		if p.Node != cfg.Self {
			f.peers = append(f.peers, p)
		}
	}
	c.machine.fetch = f.fill
	return c, nil
}

// Ready is closed the first time this node serves.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Restored is closed when the states are those of raft's snapshot, if there is
// one; entries after it follow from then on.
func (c *Cluster) Restored() <-chan struct{} { return c.restored }

// Serving reports that a command submitted here now would be carried out.
func (c *Cluster) Serving() bool {
	for _, b := range c.shelf.Books() {
		if b.Fenced() != 0 {
			return false
		}
	}
	return c.serving.Load()
}

// Leader returns the peer that leads, if one is known.
func (c *Cluster) Leader() (Peer, bool) {
	r := c.raft.Load()
	if r == nil {
		return Peer{}, false
	}
	_, id := r.LeaderWithID()
	return c.cfg.peer(tidegate.NodeName(id))
}

// Submit replicates a command and returns its outcome once it is applied here.
// The command's time is stamped by Submit. After an error of class transient the
// command may or may not be carried out later: the same request may be submitted
// again, anywhere. ctx is honoured until raft has taken the command in; from
// there on raft answers by itself, at the latest when leadership is lost.
func (c *Cluster) Submit(ctx context.Context, cmd ledger.Command) (ledger.Outcome, error) {
	subject := fmt.Sprintf("%s/%d", cmd.Client, cmd.Request)
	b := c.shelf.Book(cmd.Currency)
	if b == nil {
		return ledger.Outcome{}, &tidegate.Error{
			Op: "submit", Subject: subject, Class: tidegate.Misuse, Err: fmt.Errorf("no book of %s", cmd.Currency),
		}
	}
	if e := b.Fenced(); e != 0 {
		return ledger.Outcome{}, &tidegate.Error{
			Op: "submit", Subject: subject, Class: tidegate.Fenced, Err: fmt.Errorf("epoch %s is held elsewhere: %w", e, tidegate.ErrFenced),
		}
	}
	r := c.raft.Load()
	if r == nil || !c.serving.Load() || !c.door.enter() {
		return ledger.Outcome{}, &tidegate.Error{Op: "submit", Subject: subject, Class: tidegate.Transient, Err: ErrNotLeader}
	}
	defer c.door.leave()
	cmd.TimeUnix = time.Now().UnixNano()
	rec, err := cmd.Append(nil)
	if err != nil {
		return ledger.Outcome{}, &tidegate.Error{Op: "submit", Subject: subject, Class: tidegate.Misuse, Err: err}
	}
	// A client that repeats itself while the gate is closed must not fill the log.
	if o, ok := b.Remembered(rec); ok {
		return o, nil
	}
	// The journal mirrors raft's log and cannot refuse a part of it: its gate is
	// asked before raft is.
	admission, err := b.Journal().Admit(ctx)
	if err != nil {
		return ledger.Outcome{}, &tidegate.Error{Op: "submit", Subject: subject, Class: tidegate.ClassOf(err), Hint: tidegate.HintOf(err), Err: err}
	}
	defer admission.Done()
	timeout := c.cfg.EnqueueTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	if timeout <= 0 {
		return ledger.Outcome{}, &tidegate.Error{Op: "submit", Subject: subject, Class: tidegate.Transient, Err: context.DeadlineExceeded}
	}
	f := r.Apply(rec, timeout)
	if err := f.Error(); err != nil {
		if errors.Is(err, raft.ErrNotLeader) {
			err = ErrNotLeader
		}
		return ledger.Outcome{}, &tidegate.Error{Op: "submit", Subject: subject, Class: tidegate.Transient, Err: err}
	}
	done, ok := f.Response().(applied)
	if !ok {
		return ledger.Outcome{}, &tidegate.Error{
			Op: "submit", Subject: subject, Class: tidegate.Permanent, Err: fmt.Errorf("raft answered %T", f.Response()),
		}
	}
	if done.err != nil {
		return ledger.Outcome{}, &tidegate.Error{Op: "submit", Subject: subject, Class: tidegate.ClassOf(done.err), Err: done.err}
	}
	return done.outcome, nil
}

// Run takes part in the cluster until ctx ends, or until an entry could not be
// journaled, which it returns: the node must not count as a replica any more.
func (c *Cluster) Run(ctx context.Context) (err error) {
	// Raft's callbacks get no context; what they wait for ends with this one. It
	// outlives ctx until those who wait for raft have been answered.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	c.machine.ctx = func() context.Context { return inner }
	stop := context.AfterFunc(ctx, cancel)

	st, err := openStorage(c.log, c.cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	r, err := raft.NewRaft(c.raftConfig(), c.machine, st.cache, st.bolt, st.snapshots, st.transport)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("start raft: %w", err)
	}
	stop()
	c.raft.Store(r)
	close(c.restored)
	halt := sync.OnceValue(func() error { return c.halt(r, cancel) })
	defer func() { err = errors.Join(err, halt()) }()
	if !st.existing {
		// Every node bootstraps with the same configuration; raft allows that
		// exactly when there is no state yet.
		if err := r.BootstrapCluster(c.configuration()).Error(); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return fmt.Errorf("bootstrap raft: %w", err)
		}
	}
	again := time.NewTimer(time.Hour)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-c.machine.broken:
			c.resign()
			if ctx.Err() != nil {
				return nil
			}
			if !errors.Is(err, tidegate.ErrFenced) {
				return err
			}
			// A fenced node takes no part in raft any more, but goes on answering
			// questions: an operator will want to see what it holds.
			c.log.Warn("fenced: this node left the cluster", "node", c.cfg.Self, "err", err)
			if err := halt(); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		case leads := <-r.LeaderCh():
			if !leads {
				c.resign()
				continue
			}
			fenced, err := c.takeOver(r)
			if err != nil {
				return err
			}
			if fenced {
				again.Reset(fencedRetry)
			}
		case <-again.C:
			if r.State() != raft.Leader {
				continue
			}
			if fenced, err := c.takeOver(r); err != nil {
				return err
			} else if fenced {
				again.Reset(fencedRetry)
			}
		}
	}
}

// haltLimit bounds how long raft may take to answer what it took in: an election
// and an fsync, generously. Beyond it the disk hangs, and the process is ending.
const haltLimit = 10 * time.Second

// halt stops raft after it has answered everybody.
func (c *Cluster) halt(r *raft.Raft, cancel context.CancelFunc) error {
	c.resign()
	if !c.door.shut(haltLimit) {
		c.log.Warn("commands in flight were not answered in time", "node", c.cfg.Self)
	}
	c.raft.Store(nil)
	cancel()
	if err := r.Shutdown().Error(); err != nil {
		return fmt.Errorf("stop raft: %w", err)
	}
	return nil
}

// fencedRetry is how often a leader that is fenced looks whether it still is:
// its agent may win the stream back.
const fencedRetry = time.Second

// takeOver makes this node serve, unless leadership is lost again meanwhile or
// a journal is fenced.
func (c *Cluster) takeOver(r *raft.Raft) (fenced bool, err error) {
	// Raft tells only the latest change: leadership may have been away and come
	// back, and somebody else may have released outputs meanwhile.
	c.resign()
	// Everything that earlier leaders committed is applied before the journals
	// hear of the new leader: their end is then the end of the history.
	if err := r.Barrier(0).Error(); err != nil {
		c.log.Warn("leadership lost before it was used", "err", err)
		return false, nil
	}
	for _, b := range c.shelf.Books() {
		if err := b.Journal().Activate(); err != nil {
			if errors.Is(err, tidegate.ErrFenced) {
				c.log.Warn("leading, but fenced: commands are refused", "stream", b.Currency().String(), "err", err)
				return true, nil
			}
			return false, fmt.Errorf("activate %s: %w", b.Currency(), err)
		}
	}
	c.serving.Store(true)
	select {
	case <-c.ready:
	default:
		close(c.ready)
	}
	c.log.Info("leading: commands are taken here", "node", c.cfg.Self)
	return false, nil
}

func (c *Cluster) resign() {
	if !c.serving.Swap(false) {
		return
	}
	for _, b := range c.shelf.Books() {
		b.Journal().Deactivate()
	}
	c.log.Info("leading no more", "node", c.cfg.Self)
}

func (c *Cluster) raftConfig() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.cfg.Self)
	rc.Logger = raftLog(c.log)
	rc.HeartbeatTimeout = c.cfg.Heartbeat
	rc.ElectionTimeout = c.cfg.Heartbeat
	rc.LeaderLeaseTimeout = max(c.cfg.Heartbeat/2, 5*time.Millisecond)
	rc.CommitTimeout = min(50*time.Millisecond, c.cfg.Heartbeat/2)
	rc.SnapshotThreshold = c.cfg.SnapshotEntries
	rc.SnapshotInterval = c.cfg.SnapshotEvery
	rc.TrailingLogs = c.cfg.TrailingEntries
	rc.BatchApplyCh = true
	rc.MaxAppendEntries = c.cfg.BatchEntriesMax
	rc.NoSnapshotRestoreOnStart = c.seeded
	return rc
}

func (c *Cluster) configuration() raft.Configuration {
	var conf raft.Configuration
	for _, p := range c.cfg.Peers {
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(p.Node), Address: raft.ServerAddress(p.Raft)})
	}
	return conf
}
