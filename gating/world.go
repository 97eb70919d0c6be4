package gating

import (
	"slices"
	"sync"
	"time"

	"github.com/tidegate/tidegate"
	pb "github.com/tidegate/tidegate/api/tidegatev1"
	"github.com/tidegate/tidegate/gating/registry"
	"github.com/tidegate/tidegate/internal/clock"
)

// world is what the gate knows: the registry's live tables as last read, and
// what everybody last reported. Only the tables outlive the process.
type world struct {
	clock clock.Clock

	mu        sync.Mutex // never held over I/O
	view      *registry.View
	reachable bool
	readAt    tidegate.Instant // when the tables were last read; meaningful once they have been
	leader    string           // gate that led at the last pulse; "" when none did
	agents    map[tidegate.NodeName]*agentState
	standbys  map[tidegate.NodeName]*standbyState
	routes    map[string]*routeState
	signs     map[tidegate.ServiceName]tidegate.Instant // of each primary's life, newest, as the detector knows it
	changed   chan struct{}                             // closed and replaced at every change of view or routes
}

type agentState struct {
	site     tidegate.SiteName
	holder   tidegate.HolderID
	sessions int // Watch streams open now
	report   *pb.ReportAgentRequest
	at       tidegate.Instant // of the report
	// before is the same agent process's report before that one, or nil.
	before *pb.ReportAgentRequest
}

type standbyState struct {
	report *pb.ReportStandbyRequest
	at     tidegate.Instant
}

type routeState struct {
	report *pb.ReportRouteRequest
	at     tidegate.Instant
}

func newWorld(c clock.Clock) *world {
	return &world{
		clock: c, agents: map[tidegate.NodeName]*agentState{}, standbys: map[tidegate.NodeName]*standbyState{},
		routes: map[string]*routeState{}, signs: map[tidegate.ServiceName]tidegate.Instant{}, changed: make(chan struct{}), view: &registry.View{},
	}
}

// read runs fn with the world held still; fn must not keep what it sees.
func (w *world) read(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

// current returns the tables and a channel that is closed when they, or what
// routes have applied, change.
func (w *world) current() (v *registry.View, reachable bool, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view, w.reachable, w.changed
}

func (w *world) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// setView takes tables that were read; an older reading that comes late is ignored.
func (w *world) setView(v *registry.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v.Revision < w.view.Revision {
		return
	}
	w.view, w.reachable, w.readAt = v, true, w.clock.Boot()
	w.notify()
}

// viewAge returns how old the tables are; false while they have never been read.
func (w *world) viewAge() (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.age(w.readAt), w.view.Revision > 0
}

// known reports whether the tables have been read at all.
func (w *world) known() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.view.Revision > 0
}

// setPulse takes a periodic reading: it tells nobody unless something changed.
func (w *world) setPulse(v *registry.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v.Revision < w.view.Revision {
		return
	}
	w.readAt = w.clock.Boot()
	if v.Revision == w.view.Revision && w.reachable {
		return
	}
	w.view, w.reachable = v, true
	w.notify()
}

func (w *world) setLeader(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leader = name
}

// forget drops the tables of a registry that has gone back in time.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.view = &registry.View{}
}

func (w *world) setUnreachable() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reachable {
		w.reachable = false
		w.notify()
	}
}

func (w *world) agent(n tidegate.NodeName) *agentState {
	a := w.agents[n]
	if a == nil {
		a = &agentState{}
		w.agents[n] = a
	}
	return a
}

// agentSession counts a Watch stream of an agent; call done when it ends.
func (w *world) agentSession(n tidegate.NodeName, site tidegate.SiteName, holder tidegate.HolderID) (done func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.agent(n)
	a.site, a.holder = site, holder
	a.sessions++
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		a.sessions--
	}
}

func (w *world) reportAgent(r *pb.ReportAgentRequest, holder tidegate.HolderID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.agent(tidegate.NodeName(r.GetNode()))
	if a.before = nil; a.holder == holder {
		a.before = a.report
	}
	a.site, a.holder, a.report, a.at = tidegate.SiteName(r.GetSite()), holder, r, w.clock.Boot()
}

func (w *world) reportStandby(r *pb.ReportStandbyRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.standbys[tidegate.NodeName(r.GetNode())] = &standbyState{report: r, at: w.clock.Boot()}
}

func (w *world) reportRoute(r *pb.ReportRouteRequest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.routes[r.GetName()]
	w.routes[r.GetName()] = &routeState{report: r, at: w.clock.Boot()}
	// Reports come several times a second and wake every watcher; what somebody
	// may wait for is an epoch that was applied.
	if before == nil || !slices.EqualFunc(before.report.GetServices(), r.GetServices(), sameApplied) {
		w.notify()
	}
}

func sameApplied(a, b *pb.RouteApplied) bool {
	return a.GetService() == b.GetService() && a.GetEpoch() == b.GetEpoch()
}

func (w *world) age(at tidegate.Instant) time.Duration {
	return time.Duration(w.clock.Boot() - at)
}

// holderOf returns the uuid under which the agent on a node runs now: as it said
// to this gate, or as it was registered through another one.
func (w *world) holderOf(n tidegate.NodeName) (h tidegate.HolderID, site tidegate.SiteName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.agents[n]; a != nil && !a.holder.IsZero() && (a.sessions > 0 || a.report != nil) {
		return a.holder, a.site
	}
	if node, ok := w.view.Node(registry.KindAgent, n); ok {
		return node.Holder, node.Site
	}
	return tidegate.HolderID{}, ""
}

// endpointsOf returns where the service answers beside the agents of a site: the
// active one first, then the others, then what is configured for the site.
func (w *world) endpointsOf(svc registry.Service, streams []registry.Stream, node tidegate.NodeName, site tidegate.SiteName) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var first, rest []string
	for name, a := range w.agents {
		if a.report == nil || a.site != site {
			continue
		}
		for _, s := range a.report.GetStreams() {
			if s.GetEndpoint() == "" || !hasStream(streams, s.GetStreamId()) {
				continue
			}
			if name == node {
				first = append(first, s.GetEndpoint())
			} else {
				rest = append(rest, s.GetEndpoint())
			}
		}
	}
	return unique(first, sorted(rest), svc.Endpoints[site])
}
