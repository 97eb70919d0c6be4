package detect

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tidegate/tidegate"
)

var jitterDays = flag.Int("days", 2, "simulated days of jitter; docs/operating/detector.md quotes 30")

const second = tidegate.Instant(time.Second)

// stage plays observers around one primary at site east, one step a second.
type stage struct {
	d      *Detector
	now    tidegate.Instant
	actors []*actor
	v      Verdict
}

// actor is one vantage point; its clock is its own.
type actor struct {
	point   Point
	skew    tidegate.Instant
	contact tidegate.Instant // on the stage's clock; 0: never
	hears   bool             // the primary, now
	mute    bool             // the detector does not hear of it
	asleep  bool             // stopped: neither hears nor speaks
	slept   time.Duration
	alone   bool
	failed  bool // what it says when it does not hear
	prog    *Progress
}

var (
	atDR      = Point{"west", "dr1", Beacon}
	atDR2     = Point{"west", "dr2", Beacon}
	atWitness = Point{"north", "g3", Probe}
	atGate    = Point{"west", "g2", Session}
	atHome    = Point{"east", "g1", Session}
)

func newStage(set Settings, points ...Point) *stage {
	set = set.SetDefaults()
	s := &stage{d: New(set), now: 1000 * second}
	s.d.Primary("east")
	for i, p := range points {
		s.actors = append(s.actors, &actor{point: p, skew: tidegate.Instant(i) * 7777 * second, hears: true, failed: true})
	}
	return s
}

func (s *stage) at(p Point) *actor {
	i := slices.IndexFunc(s.actors, func(a *actor) bool { return a.point == p })
	return s.actors[i]
}

// step lets a second pass for everybody.
func (s *stage) step() {
	s.now += second
	for _, a := range s.actors {
		if a.asleep {
			a.slept += time.Second
			continue
		}
		if a.hears {
			a.contact = s.now
		}
		o := Observation{Point: a.point, At: s.now + a.skew, Asleep: a.slept, Outcome: OK}
		if a.contact != 0 {
			silent := time.Duration(s.now - a.contact)
			o.Silent = &silent
		}
		if !a.hears {
			o.Outcome = Absent
			if a.failed {
				o.Outcome = Failed
			}
		}
		company := 2
		if a.alone {
			company = 0
		}
		o.Company = &company
		if a.prog != nil {
			o.Progress = []Progress{*a.prog}
		}
		a.slept = 0
		if !a.mute {
			s.d.Observe(s.now, o)
		}
	}
	s.v = s.d.Tick(s.now)
}

func (s *stage) run(n int) *stage {
	for range n {
		s.step()
	}
	return s
}

func (s *stage) want(t *testing.T, state State, reason string) {
	t.Helper()
	if s.v.State != state || !strings.Contains(strings.Join(s.v.Reasons, "; "), reason) {
		t.Errorf("got %s %q, want %s ...%s...\n%s", s.v.State, s.v.Reasons, state, reason, s.votes())
	}
}

func (s *stage) votes() string {
	var b strings.Builder
	for _, v := range s.v.Votes {
		fmt.Fprintf(&b, "  %s: %s: %s\n", v.Point, v.Ballot, v.Why)
	}
	return b.String()
}

func (s *stage) alarm(kind string) bool {
	return slices.ContainsFunc(s.v.Alarms, func(a Alarm) bool { return a.Kind == kind })
}

func (s *stage) deaf(points ...Point) *stage {
	for _, p := range points {
		s.at(p).hears = false
	}
	return s
}

func TestVerdicts(t *testing.T) {
	all := []Point{atDR, atDR2, atWitness, atGate, atHome}
	for _, c := range []struct {
		name   string
		points []Point
		play   func(*stage)
		state  State
		reason string
	}{
		{"heard by all", all, func(*stage) {}, Up, "5 of 5"},
		{"no observer", nil, func(*stage) {}, Undecided, "can tell"},
		{"no writer", all, func(s *stage) { s.d.Primary(""); s.run(1) }, Undecided, "no writer"},
		{"site lost with its gate", all, func(s *stage) {
			s.at(atHome).mute = true
			s.deaf(all...).run(15)
		}, Down, "3 vantage points at 2 sites"},
		{"silent for less than Td", all, func(s *stage) { s.deaf(all...).run(7) }, Suspect, "lately"},
		{"service dead, agent lives", all, func(s *stage) { s.deaf(atWitness).run(30) }, Undecided, "partition"},
		{"only one site knows", []Point{atDR, atGate}, func(s *stage) { s.deaf(atDR, atGate).run(30) }, Undecided, "1 sites"},
		{"witness never had a contact", []Point{atDR, atGate, atWitness}, func(s *stage) {
			s.d.Primary("elsewhere")
			s.at(atWitness).contact = 0
			s.deaf(atDR, atGate, atWitness).run(30)
		}, Undecided, "1 sites"},
		{"probe that tries nothing", []Point{atDR, atWitness}, func(s *stage) {
			s.at(atWitness).failed = false
			s.deaf(atDR, atWitness).run(30)
		}, Undecided, "1 sites"},
		{"witness is cut off from everybody", []Point{atDR, atWitness}, func(s *stage) {
			s.at(atWitness).alone = true
			s.deaf(atDR, atWitness).run(30)
		}, Undecided, "1 sites"},
		{"witness not heard from", []Point{atDR, atWitness}, func(s *stage) {
			s.at(atWitness).mute = true
			s.deaf(atDR, atWitness).run(30)
		}, Undecided, "1 sites"},
		{"standby site deaf, clients served", all, func(s *stage) { s.deaf(atDR, atDR2, atGate).run(30) }, Undecided, "partition"},
		{"primary's own gate still hears it", all, func(s *stage) { s.deaf(atDR, atDR2, atGate, atWitness).run(30) }, Undecided, "partition"},
		{"comes back", all, func(s *stage) {
			s.deaf(all...).run(20)
			for _, a := range s.actors {
				a.hears = true
			}
			s.run(1)
		}, Up, ""},
		{"observer was asleep", []Point{atDR, atWitness}, func(s *stage) {
			for _, a := range s.actors {
				a.asleep = true
			}
			s.run(20)
			for _, a := range s.actors {
				a.asleep, a.hears = false, false
			}
			s.run(5)
		}, Suspect, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(Settings{Mode: Observe}, c.points...).run(60)
			c.play(s)
			s.want(t, c.state, c.reason)
		})
	}
}

func TestAsleepObserverStartsAnew(t *testing.T) {
	s := newStage(Settings{Mode: Observe}, atDR, atWitness).run(60)
	for _, a := range s.actors {
		a.asleep = true
	}
	s.run(60)
	for _, a := range s.actors {
		a.asleep, a.hears = false, false
	}
	for i := range 9 {
		s.step()
		if s.v.State == Down {
			t.Fatalf("down %d s after the observers woke up\n%s", i+1, s.votes())
		}
	}
	s.run(10).want(t, Down, "")
}

func TestAsleepDetectorStartsAnew(t *testing.T) {
	s := newStage(Settings{Mode: Observe}, atDR, atWitness).run(60).deaf(atDR, atWitness)
	s.now += 300 * second // nobody calls: the observers go on, their messages wait
	for i := range 9 {
		s.step()
		if s.v.State == Down {
			t.Fatalf("down %d s after it woke up\n%s", i+1, s.votes())
		}
	}
	s.run(5).want(t, Down, "")
}

// A vantage point that was lost with the primary has heard it until then, and not a
// moment ago for ever: the age of the last sign of life would not grow.
func TestLastWordOfAVantagePointGrowsOld(t *testing.T) {
	s := newStage(Settings{Mode: Observe}, atDR, atWitness, atHome).run(60).deaf(atDR, atWitness, atHome)
	s.at(atHome).mute = true
	s.run(20).want(t, Down, "")
	for _, v := range s.v.Votes {
		if v.Silent == nil || *v.Silent < 20*time.Second {
			t.Errorf("%s: last contact %v ago", v.Point, v.Silent)
		}
	}
	if s.v.Silent == nil || *s.v.Silent < 20*time.Second {
		t.Errorf("anybody's last contact %v ago", s.v.Silent)
	}
}

func TestNoProgressIsAnAlarmAndNeverDown(t *testing.T) {
	s := newStage(Settings{Mode: Auto}, atDR, atWitness, atGate).run(60)
	p := &Progress{Stream: "a", Head: 100, Released: 100, Durable: 7}
	s.at(atDR).prog = p
	s.run(30)
	if s.alarm(AlarmNoProgress) {
		t.Fatal("idle is an alarm")
	}
	// Beacons arrive, acks do not: it has work and D stands still.
	p.Head = 140
	for i := range 120 {
		s.step()
		if s.v.State == Down || s.d.Decide(s.now, s.v, Permission{Holds: true}).Act {
			t.Fatalf("%s after %d s", s.v.State, i)
		}
	}
	s.want(t, Suspect, "stream a")
	if !s.alarm(AlarmNoProgress) {
		t.Errorf("no alarm: %v", s.v)
	}
	p.Durable = 8
	s.run(1).want(t, Up, "")
}

func TestDecide(t *testing.T) {
	auto := Settings{Mode: Auto}
	lost := func(s *stage) { s.deaf(atDR, atWitness, atGate).run(14) }
	for _, c := range []struct {
		name   string
		set    Settings
		points []Point
		play   func(*stage)
		perm   Permission
		act    bool
		why    string
	}{
		{"all agree", auto, []Point{atDR, atWitness, atGate}, lost, Permission{Holds: true}, true, ""},
		{"observe only says so", Settings{Mode: Observe}, []Point{atDR, atWitness, atGate}, lost, Permission{Holds: true}, false, "mode observe"},
		{"off", Settings{}, []Point{atDR, atWitness, atGate}, lost, Permission{Holds: true}, false, "mode off"},
		{"up", auto, []Point{atDR, atWitness, atGate}, func(*stage) {}, Permission{Holds: true}, false, "state up"},
		{"two vantage points", auto, []Point{atDR, atWitness}, func(s *stage) { s.deaf(atDR, atWitness).run(14) }, Permission{Holds: true}, false, "2 vantage points"},
		{"two nodes of one site hear through one link", auto, []Point{atDR, atDR2, atWitness}, func(s *stage) { s.deaf(atDR, atDR2, atWitness).run(14) }, Permission{Holds: true}, false, "2 vantage points"},
		{"a rule says no", auto, []Point{atDR, atWitness, atGate}, lost, Permission{Why: []string{"rpo-bound: loss unknown"}}, false, "rpo-bound"},
		{"rules not asked", auto, []Point{atDR, atWitness, atGate}, lost, Permission{}, false, "not evaluated"},
		{"soon after a change of role", auto, []Point{atDR, atWitness, atGate}, func(s *stage) {
			s.d.RoleChanged(s.now, 30*time.Second)
			lost(s)
		}, Permission{Holds: true}, false, "change of role"},
		{"long after a change of role", auto, []Point{atDR, atWitness, atGate}, func(s *stage) {
			s.d.RoleChanged(s.now, time.Hour)
			lost(s)
		}, Permission{Holds: true}, true, ""},
		{"a site that knew is not heard from", auto, []Point{atDR, atWitness, atGate, {"south", "g4", Probe}}, func(s *stage) {
			s.at(Point{"south", "g4", Probe}).mute = true
			lost(s)
		}, Permission{Holds: true}, false, "south"},
		{"flapping", auto, []Point{atDR, atWitness, atGate}, func(s *stage) {
			lost(s)
			for _, a := range s.actors {
				a.hears = true
			}
			s.run(3)
			lost(s)
		}, Permission{Holds: true}, false, "recovered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(c.set, c.points...).run(60)
			c.play(s)
			got := s.d.Decide(s.now, s.v, c.perm)
			if got.Act != c.act || !strings.Contains(strings.Join(got.Why, "; "), c.why) {
				t.Errorf("got %+v, want act %v and ...%s...\n%s %q\n%s", got, c.act, c.why, s.v.State, s.v.Reasons, s.votes())
			}
			if got.Would != (c.name == "observe only says so") {
				t.Errorf("would %v", got.Would)
			}
		})
	}
}

func TestAnEpisodeIsOne(t *testing.T) {
	s := newStage(Settings{Mode: Observe}, atDR, atWitness).run(60).deaf(atDR, atWitness).run(30)
	if s.v.Episode != 1 {
		t.Fatalf("episode %d", s.v.Episode)
	}
	s.at(atWitness).alone = true // undecided for a while
	s.run(5)
	s.at(atWitness).alone = false
	s.run(5).want(t, Down, "")
	if s.v.Episode != 1 {
		t.Errorf("episode %d after it was undecided for a while", s.v.Episode)
	}
	s.at(atDR).hears, s.at(atWitness).hears = true, true
	s.run(5).deaf(atDR, atWitness).run(30)
	if s.v.Episode != 2 {
		t.Errorf("episode %d after it was up", s.v.Episode)
	}
}

// A link that carries nothing in one direction, or in both, between the primary
// and one other site is never down, whatever else is slow or asleep: some site
// hears it. So is a detector that sleeps, whatever it finds when it wakes up.
func TestOneLinkIsNeverDown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(Settings{Mode: Auto}, atDR, atDR2, atWitness, atGate).run(30)
		dead := rapid.SampledFrom([]tidegate.SiteName{"west", "north"}).Draw(t, "deaf site")
		for range rapid.IntRange(1, 60).Draw(t, "rounds") {
			for _, a := range s.actors {
				a.hears = a.point.Site != dead
				a.asleep = rapid.IntRange(0, 9).Draw(t, "sleep") == 0
				a.mute = a.point.Site == dead && rapid.Bool().Draw(t, "mute")
			}
			if rapid.IntRange(0, 9).Draw(t, "detector sleeps") == 0 {
				s.now += tidegate.Instant(rapid.IntRange(1, 100).Draw(t, "for")) * second
			}
			s.run(rapid.IntRange(1, 4).Draw(t, "seconds"))
			if s.v.State == Down {
				t.Fatalf("down\n%s", s.votes())
			}
		}
	})
}

func TestPausedDetectorIsNeverTheJudge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(Settings{Mode: Auto}, atDR, atWitness, atGate).run(rapid.IntRange(1, 40).Draw(t, "before"))
		// Everybody falls silent only because nobody reads what they say; then the
		// detector runs for less than Td at a time.
		s.deaf(atDR, atWitness, atGate)
		for range rapid.IntRange(1, 20).Draw(t, "pauses") {
			s.now += tidegate.Instant(rapid.Int64Range(int64(PauseMax)+1, int64(time.Hour)).Draw(t, "pause"))
			s.run(rapid.IntRange(1, 9).Draw(t, "awake"))
			if s.v.State == Down {
				t.Fatalf("down\n%s", s.votes())
			}
		}
	})
}

// TestFalsePositivesAndDetectionTime plays jittery links: beacons every 200 ms
// that are lost, late, and now and then held back for seconds on one link (a
// route that flaps) or on all (the primary collects garbage, always for less
// than Td), seen by three vantage points.
func TestFalsePositivesAndDetectionTime(t *testing.T) {
	hours := 24 * *jitterDays
	s := newStage(Settings{Mode: Auto}, atDR, atWitness, atGate)
	r := rand.New(rand.NewPCG(7, 11))
	stall := make([]int, len(s.actors)) // seconds that an observer's link still stands still
	pause := 0                          // seconds that the primary still pauses
	down, suspects := 0, 0
	for range hours * 3600 {
		if pause--; pause < 0 && r.Float64() < 1.0/1800 {
			pause = 1 + r.IntN(8)
		}
		for i, a := range s.actors {
			if stall[i] > 0 {
				stall[i]--
			} else if r.Float64() < 1.0/600 { // every ten minutes, on each link
				stall[i] = int(r.ExpFloat64() * 4) // seconds, mean 4, seldom 30
			}
			a.hears = stall[i] == 0 && pause <= 0
		}
		before := s.v.State
		s.step()
		if s.v.State == Down && before != Down {
			down++
		}
		if s.v.State == Suspect && before != Suspect {
			suspects++
		}
	}
	var took []time.Duration
	for range 2000 {
		for i := range stall {
			stall[i] = 0
		}
		for _, a := range s.actors {
			a.hears = true
		}
		s.run(20 + r.IntN(20))
		for _, a := range s.actors {
			a.hears = false
		}
		began := s.now
		for s.v.State != Down {
			s.step()
			if s.now > began+60*second {
				t.Fatalf("not detected\n%s", s.votes())
			}
		}
		// Up to a second passed between the fault and the first silent observation.
		took = append(took, time.Duration(s.now-began)+time.Duration(r.Int64N(int64(time.Second))))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	months := float64(hours) / (24 * 30)
	t.Logf("%.2f months of jitter on three links: %d times down (%.2f a month), %d times suspect; detection p50 %s, p99 %s with Td %s",
		months, down, float64(down)/months, suspects, p50.Round(time.Millisecond), p99.Round(time.Millisecond), s.d.Settings().DownAfter)
	if down > 0 {
		t.Errorf("%d false positives", down)
	}
	if limit := s.d.Settings().DownAfter + 3*time.Second; p99 > limit {
		t.Errorf("detection p99 %s, want at most %s", p99, limit)
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		set  Settings
		want string
	}{
		{Settings{}, ""},
		{Settings{Mode: Auto}, ""},
		{Settings{Mode: Auto, Agree: 2}, "agree 2: want at least 3"},
		{Settings{Mode: Observe, Agree: 1}, "agree 1"},
		{Settings{Mode: "maybe"}, "want off, observe or auto"},
		{Settings{Mode: Observe, DownAfter: 4 * time.Second}, "down_after 4s"},
		{Settings{Mode: Observe, DownAfter: 2 * time.Minute, AntiFlap: time.Minute}, "anti_flap"},
	} {
		err := c.set.SetDefaults().Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.set, err, c.want)
		}
	}
}
