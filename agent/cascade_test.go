package agent

import (
	"testing"
	"time"

	"github.com/tidegate/tidegate"
)

// at is an instant so long after the first.
func at(d time.Duration) tidegate.Instant { return tidegate.Instant(time.Hour + d) }

func TestCascade(t *testing.T) {
	cfg := DropConfig{After: 10 * time.Second, Slow: time.Minute, Back: 5 * time.Second}
	type event struct {
		at      time.Duration
		do      func(*cascade, tidegate.Instant)
		waiting time.Duration
		want    lane
	}
	tried := func(c *cascade, now tidegate.Instant) { c.tried(now) }
	live := func(c *cascade, _ tidegate.Instant) { c.word(laneLive) }
	archive := func(c *cascade, _ tidegate.Instant) { c.word(laneArchive) }
	good := func(c *cascade, now tidegate.Instant) { c.probed(now, true) }
	bad := func(c *cascade, now tidegate.Instant) { c.probed(now, false) }
	idle := func(c *cascade, _ tidegate.Instant) { c.idle() }
	slept := func(c *cascade, now tidegate.Instant) { c.slept(now) }
	const s = time.Second
	for name, events := range map[string][]event{
		"nobody tries": {{0, nil, 0, laneLive}, {time.Hour, nil, 0, laneLive}},
		"silence counts from the first attempt": {
			{0, tried, 0, laneLive}, {9 * s, tried, 0, laneLive}, {10 * s, nil, 0, laneArchive},
		},
		"a word ends the silence": {
			{0, tried, 0, laneLive}, {9 * s, live, 0, laneLive}, {15 * s, tried, 0, laneLive}, {24 * s, nil, 0, laneLive}, {25 * s, nil, 0, laneArchive},
		},
		"a word of the other lane does not": {{0, tried, 0, laneLive}, {9 * s, archive, 0, laneLive}, {10 * s, nil, 0, laneArchive}},
		"who gives up is not silent":        {{0, tried, 0, laneLive}, {9 * s, idle, 0, laneLive}, {time.Hour, nil, 0, laneLive}},
		"back once it answers for a while": {
			{0, tried, 0, laneLive},
			{10 * s, nil, 0, laneArchive},
			{11 * s, tried, 0, laneArchive},
			{12 * s, archive, 0, laneArchive},
			{20 * s, good, 0, laneArchive},
			{22 * s, bad, 0, laneArchive},
			{24 * s, good, 0, laneArchive},
			{28 * s, good, 0, laneArchive},
			{29 * s, nil, 0, laneLive},
		},
		"back at once from where nothing crosses": {
			{0, tried, 0, laneLive}, {10 * s, tried, 0, laneArchive}, {11 * s, tried, 0, laneArchive}, {30 * s, good, 0, laneArchive}, {31 * s, nil, 0, laneLive},
		},
		"too slow": {
			{0, live, 59 * s, laneLive},
			{s, live, 60 * s, laneArchive},
			{2 * s, archive, 0, laneArchive},
			{3 * s, good, 0, laneArchive},
			{60 * s, archive, 0, laneArchive},
			{61 * s, archive, 0, laneLive},
			// Once more: it is left alone for twice as long.
			{130 * s, live, 60 * s, laneArchive},
			{131 * s, good, 0, laneArchive},
			{249 * s, archive, 0, laneArchive},
			{250 * s, archive, 0, laneLive},
		},
		"too slow, but for the archive too": {
			{0, live, 60 * s, laneArchive}, {s, tried, 0, laneArchive}, {2 * s, good, 0, laneArchive}, {20 * s, good, 0, laneArchive}, {21 * s, good, 0, laneLive},
		},
		"what was slept through does not count": {
			{0, tried, 0, laneLive},
			{300 * s, slept, 300 * s, laneLive},
			{309 * s, live, 309 * s, laneLive},
			{359 * s, nil, 359 * s, laneLive},
			{360 * s, nil, 360 * s, laneArchive},
			{361 * s, good, 0, laneArchive},
			{500 * s, slept, 0, laneArchive},
			{501 * s, good, 0, laneArchive},
			{505 * s, good, 0, laneArchive},
			{506 * s, good, 0, laneLive},
		},
		"down at once, without a hold": {
			{0, live, 60 * s, laneArchive},
			{s, good, 0, laneArchive},
			{61 * s, archive, 0, laneLive},
			{70 * s, tried, 0, laneLive},
			{80 * s, nil, 0, laneArchive},
			{81 * s, good, 0, laneArchive},
			{86 * s, archive, 0, laneLive},
		},
	} {
		c := newCascade(cfg)
		for _, e := range events {
			if e.do != nil {
				e.do(&c, at(e.at))
			}
			was := c.lane
			if moved := c.step(at(e.at), e.waiting); moved != (c.lane != was) {
				t.Errorf("%s, %s: moved %t from %s to %s", name, e.at, moved, was, c.lane)
			}
			if c.lane != e.want {
				t.Errorf("%s, %s: by %s, want %s", name, e.at, c.lane, e.want)
			}
			if (c.why != "") != (c.lane == laneArchive) {
				t.Errorf("%s, %s: by %s, because %q", name, e.at, c.lane, c.why)
			}
		}
	}
}
