package journal

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/machine"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/internal/vfs"
)

// rebuilder is a tallier that can be taken back: it replays.
type rebuilder struct {
	*tallier

	j        *Journal
	rewound  []tidegate.Position
	followed []tidegate.Epoch
	err      error
}

func (r *rebuilder) Following(_ context.Context, epoch tidegate.Epoch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followed = append(r.followed, epoch)
	return nil
}

func (r *rebuilder) Rewound(_ context.Context, to tidegate.Position) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rewound = append(r.rewound, to)
	if r.err != nil {
		return r.err
	}
	r.applied, r.payloads = 0, nil
	in, err := r.j.NewReader(0)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	for {
		rec, ok, err := in.TryNext()
		if err != nil || !ok {
			return err
		}
		r.applied, r.payloads = rec.Next, append(r.payloads, string(rec.Payload))
	}
}

// oldPrimary is a fenced former writer with ten records, six of them the
// stream's, and the standby node beside it.
type oldPrimary struct {
	fs            *vfs.Mem
	j             *Journal
	svc           *rebuilder
	daemon, agent *peer
	stop          func() error
	ends          []Range
}

func startOldPrimary(t *testing.T, svc func(*rebuilder) Service) *oldPrimary {
	t.Helper()
	o := &oldPrimary{fs: vfs.NewMem(), daemon: listen(t, local.DaemonStandby), agent: listen(t, local.DaemonAgent)}
	cfg := testConfig()
	cfg.StandbySocket, cfg.AgentSocket = o.daemon.l.Addr(), o.agent.l.Addr()
	o.j = open(t, o.fs, "/j", cfg)
	for i := range 10 {
		r, err := o.j.Append(t.Context(), payload(i), testTime.Add(time.Duration(i)))
		if err != nil {
			t.Fatal(err)
		}
		o.ends = append(o.ends, r)
	}
	o.svc = &rebuilder{tallier: newTallier(), j: o.j}
	o.svc.applied, o.svc.payloads = o.j.End(), make([]string, 10)
	o.stop = run(t, o.j, svc(o.svc))
	o.agent.accept()
	o.daemon.accept()
	o.agent.send(&local.Role{State: local.StateFenced, Epoch: 2})
	<-o.svc.onFence
	return o
}

// TestOldPrimaryRewindsAndFollows: what the stream left behind is in
// quarantine, the state is what the kept records make it, and it follows.
func TestOldPrimaryRewindsAndFollows(t *testing.T) {
	o := startOldPrimary(t, func(r *rebuilder) Service { return r })
	fork := o.ends[5].Next
	divergent := rawBytes(t, o.j, fork)
	o.daemon.send(&local.Rewind{To: fork, Epoch: 2})
	o.daemon.wg.Wait() // it hung up
	o.agent.wg.Wait()  // on both: the agent must look at the journal anew
	for _, d := range []*peer{o.daemon, o.agent} {
		if h := d.accept(); h.End != fork {
			t.Errorf("came back with its end at %s, want %s", h.End, fork)
		}
	}
	o.svc.mu.Lock()
	if len(o.svc.followed) != 1 || len(o.svc.rewound) != 1 || o.svc.rewound[0] != fork || o.svc.applied != fork || len(o.svc.payloads) != 6 {
		t.Errorf("rewound %v, applied %s, %d records", o.svc.rewound, o.svc.applied, len(o.svc.payloads))
	}
	o.svc.mu.Unlock()
	saved := false
	walk(t, o.fs, "/j/quarantine", func(path string, data []byte) {
		saved = saved || strings.Contains(string(data), string(divergent))
	})
	if !saved {
		t.Error("the divergent records are not in quarantine")
	}
	// The stream's own records follow, the new history's branch first.
	source := open(t, vfs.NewMem(), "/j", testConfig())
	appendN(t, source, 0, 6)
	if _, err := source.Branch(t.Context(), 2, fork); err != nil {
		t.Fatal(err)
	}
	appendN(t, source, 20, 3)
	raw := rawBytes(t, source, fork)
	o.daemon.send(&local.Role{State: local.StateFollow, Epoch: 2, ApplyTo: fork, Lineage: source.Lineage()})
	o.daemon.send(&local.Batch{Epoch: 2, Seq: 1, First: fork, Next: source.End(), Records: 4, Payload: raw})
	expect(o.daemon, "applied", func(m *local.LibraryProgress) bool { return m.Applied == source.End() && m.Gate == machine.Fenced })
	if o.j.Lineage() != source.Lineage() {
		t.Errorf("lineage %s, want %s", o.j.Lineage(), source.Lineage())
	}
}

// TestStandsDownForANewerEpoch: a service that is active by itself, after a
// restart, while the stream is written elsewhere, becomes a follower. One whose
// agent holds the epoch, or went away with it, does not.
func TestStandsDownForANewerEpoch(t *testing.T) {
	follow := &local.Role{State: local.StateFollow, Epoch: 5}
	for name, c := range map[string]struct {
		before func(*gate)
		stays  bool
	}{
		"never held":        {func(*gate) {}, false},
		"held an older one": {func(g *gate) { g.hold(4); g.release(false) }, false},
		"holds":             {func(g *gate) { g.hold(5) }, true},
		"holds an older":    {func(g *gate) { g.hold(4) }, true},
		"lost its agent":    {func(g *gate) { g.hold(4); g.release(true) }, true},
		"held a newer one":  {func(g *gate) { g.hold(6); g.release(false) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			j := open(t, vfs.NewMem(), "/j", testConfig())
			appendN(t, j, 0, 3)
			svc := &rebuilder{tallier: newTallier(), j: j}
			svc.applied = j.End()
			if err := j.Activate(); err != nil {
				t.Fatal(err)
			}
			c.before(&j.gate)
			f := &follower{j: j, svc: svc}
			if err := f.role(t.Context(), follow); err != nil {
				t.Fatal(err)
			}
			if j.gate.active() != c.stays || (len(svc.followed) == 0) != c.stays || (len(svc.fenced) == 0) != c.stays {
				t.Errorf("active %v, following %v, fenced %v", j.gate.active(), svc.followed, svc.fenced)
			}
		})
	}
}

func TestRewindThatMustNotBe(t *testing.T) {
	broken := errors.New("no snapshot that old")
	t.Run("active", func(t *testing.T) {
		o := startOldPrimary(t, func(r *rebuilder) Service { return r })
		end := o.j.End()
		o.agent.send(&local.Role{State: local.StateActive, Epoch: 3})
		eventually(t, "unfenced", func() bool { return o.j.Activate() == nil })
		o.daemon.send(&local.Rewind{To: o.ends[5].Next, Epoch: 2})
		o.daemon.wg.Wait()
		if h := o.daemon.accept(); h.End != end {
			t.Errorf("end %s, want %s", h.End, end)
		}
	})
	for _, c := range []struct {
		name string
		svc  func(*rebuilder) Service
		want error
	}{
		{"a service that cannot", func(r *rebuilder) Service { return r.tallier }, tidegate.ErrDiverged},
		{"a service that fails", func(r *rebuilder) Service { r.err = broken; return r }, broken},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := startOldPrimary(t, c.svc)
			o.daemon.send(&local.Rewind{To: o.ends[5].Next, Epoch: 2})
			o.daemon.wg.Wait()
			eventually(t, "run ends", func() bool {
				var wg sync.WaitGroup
				var err error
				wg.Go(func() { err = o.stop() })
				wg.Wait()
				return errors.Is(err, c.want)
			})
		})
	}
}

// walk calls f with every file below dir.
func walk(t *testing.T, fsys vfs.FS, dir string, f func(path string, data []byte)) {
	t.Helper()
	entries, err := fsys.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range entries {
		path := filepath.Join(dir, name)
		if data, err := readFile(fsys, path); err == nil {
			f(path, data)
		} else {
			walk(t, fsys, path, f)
		}
	}
}

// TestReportsTheGrantObeyed: the number comes back once its bounds hold.
func TestReportsTheGrantObeyed(t *testing.T) {
	p := startPrimary(t, vfs.NewMem())
	p.activate(1)
	g := progress(1, 0, tidegate.ModeBounded, bounds(5, tidegate.Unbounded, tidegate.Unbounded))
	g.Grant, g.Record = 7, machine.RecordArmed
	p.agent.grant(p.j, g)
	p.append(0)
	expect(p.agent, "grant", func(m *local.LibraryProgress) bool { return m.Grant == 7 && m.Gate == machine.Flowing })
	g.Drain, g.Grant = true, 8
	p.agent.grant(p.j, g)
	g.D, g.Grant = p.j.End(), 8
	p.agent.grant(p.j, g)
	p.clock.Advance(settleAfter)
	m := expect(p.agent, "drained", func(m *local.LibraryProgress) bool { return m.Drained })
	if m.Grant != 8 || m.Gate != machine.Draining || m.End != p.j.End() || m.L.Position != m.End {
		t.Errorf("%+v", m)
	}
	p.agent.hangUp()
	p.agent.accept()
	if m := expect(p.agent, "first report", anyOf[*local.LibraryProgress]); m.Grant != 0 || !m.Drained {
		t.Errorf("on a new connection: %+v", m)
	}
}
