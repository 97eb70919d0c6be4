package archive

import (
	"errors"
	"testing"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
)

// chainOf is the chain of a batch of a log that was written by an epoch.
func chainOf(e tidegate.Epoch, seq tidegate.Seq) tidegate.Chain {
	return tidegate.Chain{byte(e), byte(seq)}
}

// history is a log of batches 10 to 50: to 30 of epoch 5, then of epoch 7, which it has adopted.
func history() History {
	return History{First: 10, End: 50, Epoch: 7, Start: 31, At: func(seq tidegate.Seq) (tidegate.LogPos, error) {
		e := tidegate.Epoch(7)
		if seq <= 30 {
			e = 5
		}
		if seq == 10 {
			return tidegate.LogPos{}, tidegate.ErrNotFound // trimmed just now
		}
		return tidegate.LogPos{Epoch: e, Seq: seq, Chain: chainOf(e, seq)}, nil
	}}
}

func TestRelate(t *testing.T) {
	for _, c := range []struct {
		name   string
		s      Segment
		other  bool // its chain is another than the log's
		expect Relation
	}{
		{"before the log", Segment{Last: 9, Epoch: 3}, true, Below},
		{"trimmed meanwhile", Segment{Last: 10, Epoch: 5}, false, Below},
		{"in the log", Segment{Last: 20, Epoch: 5}, false, Same},
		{"the log's end", Segment{Last: 50, Epoch: 7}, false, Same},
		{"beyond the log, of its epoch", Segment{Last: 51, Epoch: 7}, true, Ahead},
		{"beyond the log, of an epoch before", Segment{Last: 51, Epoch: 5}, true, Left},
		{"beyond the log, of an epoch after", Segment{Last: 51, Epoch: 8}, true, Against},
		{"another batch of the same epoch", Segment{Last: 20, Epoch: 5}, true, Against},
		{"what the epoch before wrote further", Segment{Last: 40, Epoch: 5}, true, Left},
		{"what an epoch wrote that the log does not have", Segment{Last: 30, Epoch: 6}, true, Left},
		{"another batch of its own epoch", Segment{Last: 45, Epoch: 7}, true, Against},
		{"its own epoch, before that began", Segment{Last: 25, Epoch: 7}, true, Against},
		{"an epoch after, where the log has one before", Segment{Last: 45, Epoch: 9}, true, Against},
	} {
		c.s.First, c.s.Chain = 1, chainOf(c.s.Epoch, c.s.Last)
		if c.other {
			c.s.Chain[15] = 1
		}
		got, err := history().Relate(c.s)
		if err != nil || got != c.expect {
			t.Errorf("%s: %v, %v, want %v", c.name, got, err, c.expect)
		}
	}
	h := history()
	h.At = func(tidegate.Seq) (tidegate.LogPos, error) { return tidegate.LogPos{}, errors.New("disk") }
	if _, err := h.Relate(Segment{First: 1, Last: 20, Epoch: 5}); err == nil {
		t.Error("a log that cannot be read is compared all the same")
	}
}

// What was beyond the log's end is looked at again when the log gets there.
func TestSurveySettlesWhatWasAhead(t *testing.T) {
	v := survey{history: history()}
	for _, s := range []Segment{
		{First: 5, Last: 30, Epoch: 5, Chain: chainOf(5, 30)},
		{First: 31, Last: 40, Epoch: 6, Chain: chainOf(6, 40)}, // left
		{First: 31, Last: 50, Epoch: 7, Chain: chainOf(7, 50)},
		{First: 51, Last: 60, Epoch: 7, Chain: chainOf(7, 60)},
	} {
		if err := v.take(s); err != nil {
			t.Fatal(err)
		}
	}
	if next, _ := v.Next(10); next != 51 || len(v.ahead) != 1 || v.against != nil {
		t.Fatalf("next %d, ahead %v, against %v", next, v.ahead, v.against)
	}
	if from := v.from(); from != 5 {
		t.Errorf("a listing goes on from %d", from)
	}
	v.history.End = 59
	if err := v.settle(); err != nil || len(v.ahead) != 1 {
		t.Fatalf("%v, ahead %v", err, v.ahead)
	}
	v.history.End = 70
	if err := v.settle(); err != nil {
		t.Fatal(err)
	}
	if next, _ := v.Next(10); next != 61 || len(v.ahead) != 0 {
		t.Errorf("next %d, ahead %v", next, v.ahead)
	}
}

func testPolicy() Policy {
	return Policy{Segment: SegmentMin, Every: 10 * time.Second}.SetDefaults()
}

func at(d time.Duration) tidegate.Instant { return tidegate.Instant(time.Hour + d) }

func TestSegmentsAreDue(t *testing.T) {
	p := testPolicy()
	data := batch.Header{Kind: batch.KindData, StoredLen: 1000}
	beat := batch.Header{Kind: batch.KindHeartbeat}
	for _, c := range []struct {
		name  string
		add   []batch.Header
		after time.Duration
		want  bool
	}{
		{"nothing", nil, time.Hour, false},
		{"just come", []batch.Header{data}, p.Every - 1, false},
		{"waited for long enough", []batch.Header{data}, p.Every, true},
		{"full", []batch.Header{{Kind: batch.KindData, StoredLen: SegmentMin}}, 0, true},
		{"heartbeats", []batch.Header{beat, beat}, p.Quiet - 1, false},
		{"heartbeats for a minute", []batch.Header{beat, beat}, p.Quiet, true},
		{"something behind heartbeats", []batch.Header{beat, data}, p.Every, true},
		{"a lineage is something", []batch.Header{{Kind: batch.KindLineage}}, p.Every, true},
	} {
		var b backlog
		b.begin(7, &Standing{})
		for i := range c.add {
			c.add[i].Seq = tidegate.Seq(7 + i)
			b.add(&c.add[i], at(0)+tidegate.Instant(i)) // the first one counts
		}
		if got := p.due(&b, at(c.after)); got != c.want {
			t.Errorf("%s: due %t, want %t", c.name, got, c.want)
		}
		if b.First != 7 || b.Last != tidegate.Seq(6+len(c.add)) {
			t.Errorf("%s: %+v", c.name, b.Range)
		}
	}
}

func TestPolicyRules(t *testing.T) {
	if err := testPolicy().Validate(); err != nil {
		t.Error(err)
	}
	if p := (Policy{Every: time.Hour}).SetDefaults(); p.Validate() != nil || p.Late < p.Quiet {
		t.Errorf("a slow pace: %+v, %v", p, p.Validate())
	}
	for name, change := range map[string]func(*Policy){
		"small segments": func(p *Policy) { p.Segment = SegmentMin - 1 },
		"huge segments":  func(p *Policy) { p.Segment = SegmentMax + 1 },
		"never":          func(p *Policy) { p.Every = -1 },
		"quiet is less":  func(p *Policy) { p.Quiet = p.Every - 1 },
		"a short lease":  func(p *Policy) { p.Lease = p.Look },
		"late":           func(p *Policy) { p.Late = -1 },
	} {
		p := testPolicy()
		if change(&p); p.Validate() == nil {
			t.Errorf("%s: %+v is taken", name, p)
		}
	}
}

var (
	one = Mirror{Node: "dr1", Incarnation: tidegate.Incarnation{1}}
	two = Mirror{Node: "dr2", Incarnation: tidegate.Incarnation{2}}
)

func said(by Mirror, until time.Duration) Archivist {
	return Archivist{Version: 1, Node: by.Node, Incarnation: by.Incarnation, Until: time.Unix(0, int64(until))}
}

func TestClaim(t *testing.T) {
	p := testPolicy()
	c := claim{self: one, policy: p}
	expect := func(what string, now time.Duration, want claimStep, held bool) {
		t.Helper()
		if got := c.next(at(now)); got != want || c.held(at(now)) != held {
			t.Errorf("%s: step %d, held %t; want %d, %t", what, got, c.held(at(now)), want, held)
		}
	}
	expect("nothing is known", 0, claimRead, false)
	c.read(false, "", Archivist{}, at(0))
	expect("nobody archives", 0, claimPut, false)
	c.put("a", said(one, 1), at(0))
	expect("it has said so", p.Look-1, claimHold, true)
	expect("it is to say so again", p.Look, claimPut, true)
	expect("for too long it has not", p.Lease, claimPut, false)
	c.lost()
	expect("somebody else has", p.Look, claimRead, false)
	c.read(true, "b", said(two, 2), at(p.Look))
	expect("another archives", p.Look+1, claimWait, false)
	expect("it is looked at again", 2*p.Look, claimRead, false)
	c.read(true, "b", said(two, 2), at(2*p.Look))
	expect("it has not changed", p.Look+p.Lease-1, claimRead, false)
	expect("nor for as long as others wait", p.Look+p.Lease, claimPut, false)
	c.read(true, "c", said(two, 3), at(p.Look+p.Lease))
	expect("it has, after all", p.Look+p.Lease+1, claimWait, false)
	released := said(two, 4)
	released.Released = true
	c.read(true, "d", released, at(4*p.Lease))
	expect("it has stopped", 4*p.Lease, claimPut, false)

	c = claim{self: one, policy: p}
	c.read(true, "e", said(one, 5), at(0))
	expect("this node before its restart", 0, claimPut, false)
}

// Of two that obey their claims both never hold one for long, even if the bucket
// does not keep conditions, and one does while both are well.
func TestClaimsOfTwoNodes(t *testing.T) {
	p := testPolicy()
	a, b := claim{self: one, policy: p}, claim{self: two, policy: p}
	tag, doc, there := "", Archivist{}, false
	n := 0
	stepOf := func(c *claim, self Mirror, now time.Duration) {
		switch c.next(at(now)) {
		case claimRead:
			c.read(there, tag, doc, at(now))
		case claimPut:
			if c.there != there || c.tag != tag {
				c.lost()
				return
			}
			n++
			there, tag, doc = true, string(rune('a'+n%26))+string(rune('a'+n/26)), said(self, now)
			c.put(tag, doc, at(now))
		case claimHold, claimWait:
		}
	}
	var lastHeld time.Duration
	for now := time.Duration(0); now < 40*p.Lease; now += time.Second {
		if now < 10*p.Lease || now >= 20*p.Lease { // for a while the first is dead
			stepOf(&a, one, now)
		}
		stepOf(&b, two, now)
		if a.held(at(now)) && b.held(at(now)) {
			t.Fatalf("both at %s", now)
		}
		if a.held(at(now)) || b.held(at(now)) {
			lastHeld = now
		}
		if now-lastHeld > p.Lease+p.Look+time.Second {
			t.Fatalf("nobody from %s to %s", lastHeld, now)
		}
	}
	if !b.held(at(40*p.Lease - time.Second)) {
		t.Error("the one that came back took it away again")
	}
}
