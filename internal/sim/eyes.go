package sim

import (
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/gating/detect"
	"github.com/tidegate/tidegate/gating/fence"
)

// Messages of the detector's vantage points.
type (
	mSeen struct { // a vantage point's own words, to every gate
		obs detect.Observation
	}
	mSession struct{ holder fence.Holder } // the writer's agent, to every gate
	mProbe   struct{ g *gate }             // a synthetic write, through the route
	mProbed  struct{}
)

// eyes is a gate's detector with its own two vantage points: a prober, and the
// sessions of agents.
type eyes struct {
	g       *gate
	d       *detect.Detector
	points  map[detect.Point]seen
	probe   contact
	session contact
	moved   map[tidegate.StreamName]movement
	stepped tidegate.Instant
	writer  tidegate.Epoch // whose movements these are
}

// contact is when something was heard last.
type contact struct {
	at    tidegate.Instant
	heard bool
}

// seen is what a point has said last, for the oracle.
type seen struct {
	at     tidegate.Instant // on the gate's clock
	silent time.Duration
	known  bool
}

// movement is when a stream's writer was seen to get something done, for the oracle.
type movement struct {
	p     detect.Progress
	since tidegate.Instant
}

const (
	downAfter = detect.DownAfterMin
	seeEvery  = time.Second
)

func newEyes(g *gate) *eyes {
	return &eyes{
		g: g, points: map[detect.Point]seen{}, moved: map[tidegate.StreamName]movement{},
		d: detect.New(detect.Settings{Mode: detect.Auto, DownAfter: downAfter, AntiFlap: downAfter, Agree: detect.AgreeMinAuto}),
	}
}

func (y *eyes) start() {
	if !y.g.w.shape.auto {
		return
	}
	y.g.every(seeEvery, y.step)
}

// silence turns a contact into what is said of it.
func (c contact) silence(now tidegate.Instant) *time.Duration {
	if !c.heard {
		return nil
	}
	d := time.Duration(now - c.at)
	return &d
}

func (y *eyes) step() {
	g, now := y.g, y.g.m.boot()
	asleep := time.Duration(0)
	if y.stepped > 0 {
		asleep = max(0, time.Duration(now-y.stepped)-seeEvery)
	}
	y.stepped = now
	if l := g.w.route.library(); l != nil {
		g.send(&l.host, &mProbe{g})
	}
	company := 0
	for p, s := range y.points { // counting only
		if p.Site != g.m.site && time.Duration(now-s.at) < 3*seeEvery {
			company = 1
		}
	}
	for _, k := range []detect.Kind{detect.Probe, detect.Session} {
		c := y.probe
		if k == detect.Session {
			c = y.session
		}
		obs := detect.Observation{
			Point: detect.Point{Site: g.m.site, Name: g.addr, Kind: k}, At: now, Silent: c.silence(now),
			Outcome: detect.OK, Asleep: asleep, Company: &company,
		}
		for _, o := range g.w.gates {
			if o != g {
				g.send(&o.host, &mSeen{obs})
			}
		}
		y.observe(obs)
	}
	if g.seen == nil || !g.trusted {
		return
	}
	rec := &g.seen.keys[0].Record
	if rec.ActiveEpoch == 0 {
		return
	}
	y.d.Primary(rec.Active.Site)
	if y.writer != rec.Epoch {
		y.writer = rec.Epoch
		clear(y.moved) // another writer, which has its time
	}
	v := y.d.Tick(now)
	g.w.oracle.judged(y, v, now)
	for i := range g.plans {
		if g.plans[i].alive() {
			y.d.RoleChanged(now, 0)
			return
		}
	}
	if dec := y.d.Decide(now, v, y.permission()); dec.Act {
		y.d.RoleChanged(now, 0)
		g.w.oracle.declared(y, now)
		if g.order(order{kind: fence.KindFailover, target: g.w.someTarget(), reason: "detector"}) {
			g.w.res.Declared++
		}
	}
}

// permission is what the rules say: the loss must be bounded by what the operator
// has accepted beforehand.
func (y *eyes) permission() detect.Permission {
	for i := range y.g.seen.keys {
		l := fence.PredictLoss(y.g.seen.keys[i].Record)
		if l.Kind == fence.LossUnknown {
			return detect.Permission{Why: []string{l.Why}}
		}
	}
	return detect.Permission{Holds: !y.g.seen.frozen}
}

func (y *eyes) observe(o detect.Observation) {
	now := y.g.m.boot()
	y.d.Observe(now, o)
	s := seen{at: now, known: o.Silent != nil && o.Asleep <= detect.PauseMax && (o.Company == nil || *o.Company > 0)}
	if o.Silent != nil {
		s.silent = *o.Silent
	}
	y.points[o.Point] = s
	for _, p := range o.Progress {
		m := y.moved[p.Stream]
		if m.since == 0 || p.Durable > m.p.Durable || p.Released > m.p.Released || p.Head <= p.Released {
			y.moved[p.Stream] = movement{p, now}
		}
	}
}

func (y *eyes) receive(from *host, msg any) {
	now := y.g.m.boot()
	switch m := msg.(type) {
	case *mSeen:
		y.observe(m.obs)
	case *mSession:
		if y.g.seen != nil && y.g.seen.keys[0].Record.Active == m.holder {
			y.session = contact{now, true}
		}
	case *mProbe: // cannot be: gates are not probed
	case *mProbed:
		y.probe = contact{now, true}
	}
	_ = from
}

// watchWriter makes a standby node a vantage point.
func (s *standby) watchWriter() {
	if !s.w.shape.auto {
		return
	}
	var stepped tidegate.Instant
	s.every(seeEvery, func() {
		now := s.m.boot()
		obs := detect.Observation{Point: detect.Point{Site: s.m.site, Name: s.addr, Kind: detect.Beacon}, At: now, Outcome: detect.OK}
		if stepped > 0 {
			obs.Asleep = max(0, time.Duration(now-stepped)-seeEvery)
		}
		stepped = now
		for i, ns := range s.streams {
			if ns.heardAt == 0 {
				continue
			}
			d := time.Duration(now - ns.heardAt)
			if obs.Silent == nil || d < *obs.Silent {
				obs.Silent = &d
			}
			if ns.beacon.known {
				obs.Progress = append(obs.Progress, detect.Progress{
					Stream: tidegate.StreamName([]string{"a", "b"}[i]), Head: uint64(ns.beacon.head),
					Released: uint64(ns.beacon.released), Durable: uint64(ns.beacon.durable),
				})
			}
		}
		for _, g := range s.w.gates {
			s.send(&g.host, &mSeen{obs})
		}
	})
}

// speak lets the writer's agent report to every gate.
func (a *agent) speak() {
	if !a.w.shape.auto {
		return
	}
	a.every(seeEvery, func() {
		for _, as := range a.streams {
			if !as.writing() {
				return
			}
		}
		for _, g := range a.w.gates {
			a.send(&g.host, &mSession{a.self})
		}
	})
}

// --- the oracle's part ---

// declared: a failover by itself begins only while nobody who can be believed hears
// the primary.
func (o *oracle) declared(y *eyes, now tidegate.Instant) {
	for _, g := range o.w.standbys {
		o.hears(y, now, detect.Point{Site: g.m.site, Name: g.addr, Kind: detect.Beacon})
	}
	for _, g := range o.w.gates {
		o.hears(y, now, detect.Point{Site: g.m.site, Name: g.addr, Kind: detect.Probe})
		o.hears(y, now, detect.Point{Site: g.m.site, Name: g.addr, Kind: detect.Session})
	}
}

func (o *oracle) hears(y *eyes, now tidegate.Instant, p detect.Point) {
	if s, ok := y.points[p]; ok && s.known && time.Duration(now-s.at) < 2*seeEvery && s.silent < downAfter/2 {
		o.w.fail("D1", "%s begins a failover by itself, although %s has heard the primary %s ago", y.g.addr, p, s.silent)
	}
}

// judged: a primary that is heard and gets nothing done is not simply up.
func (o *oracle) judged(y *eyes, v detect.Verdict, now tidegate.Instant) {
	if v.State != detect.Up {
		return
	}
	for _, name := range []tidegate.StreamName{"a", "b"} {
		m, ok := y.moved[name]
		if !ok || m.p.Head <= m.p.Released || time.Duration(now-m.since) < 3*downAfter {
			continue
		}
		for _, s := range o.w.standbys {
			if p, ok := y.points[detect.Point{Site: s.m.site, Name: s.addr, Kind: detect.Beacon}]; !ok || time.Duration(now-p.at) > 2*seeEvery || p.silent > seeEvery {
				return
			}
		}
		o.w.fail("D2", "%s calls the primary up: stream %s has not moved for %s", y.g.addr, name, time.Duration(now-m.since))
	}
}
