package shadow

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/drills/judge"
	"github.com/tidegate/tidegate/drills/probe"
	"github.com/tidegate/tidegate/drills/recovery"
	"github.com/tidegate/tidegate/journal"
)

// The ways in which the service misbehaves with its outputs.
const (
	repeats  = "repeats"  // it sends again some that receivers have
	forgets  = "forgets"  // it begins empty, and its outputs depend on the newest events
	diverges = "diverges" // it begins empty, and its outputs depend on all events
	loses    = "loses"    // it takes for sent what is not
	reorders = "reorders" // each second one leaves before the one before it
	loosely  = "loosely"  // it loses some, and repeats some
	late     = "late"     // its golden begins late
)

type event struct {
	at      tidegate.Position
	payload []byte
}

// outbox is the outputs of the service: one of each event.
type outbox struct {
	epoch  tidegate.Epoch // 0: it follows, and holds them back
	events []event
	had    int // events whose outputs receivers have: so many they were told of before t0
}

type sent struct {
	ID    recovery.ID     `json:"id"`
	Epoch tidegate.Epoch  `json:"epoch"`
	State tidegate.Digest `json:"state"`
}

// execute gives the outputs of events from one on, begun empty. They depend on the newest
// three, or on all.
func execute(events []event, from int, all bool, epoch tidegate.Epoch) (out []sent) {
	for i := from; i < len(events); i++ {
		var state tidegate.Digest
		begin := max(from, i-2)
		if all {
			begin = from
		}
		for _, e := range events[begin : i+1] {
			state = after(state, e.payload)
		}
		out = append(out, sent{recovery.ID{Stream: "main", Input: events[i].at}, epoch, state})
	}
	return out
}

// leave is what has left since the promotion.
func (o *outbox) leave(way string) []sent {
	if o.epoch == 0 {
		return nil
	}
	out := execute(o.events, 0, false, o.epoch)
	switch way {
	case repeats:
		return out[o.had-20:]
	case forgets, diverges:
		return execute(o.events, o.had, way == diverges, o.epoch)
	case loses:
		return slices.Delete(out[o.had:], 3, 8)
	case loosely:
		return slices.Delete(out[o.had-20:], 23, 28)
	case reorders:
		out = out[o.had:]
		for i := 1; i < len(out); i += 2 {
			out[i-1], out[i] = out[i], out[i-1]
		}
		return out
	}
	return out[o.had:]
}

// serveOutputs answers what a drill asks about outputs.
func (s *chain) serveOutputs(mux *http.ServeMux, j *journal.Journal) {
	answer := func(path string, lines func() ([]sent, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			all, err := lines()
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
			enc := json.NewEncoder(w)
			for _, l := range all {
				_ = enc.Encode(l) // the client sees it
			}
		})
	}
	answer("/held", func() ([]sent, error) {
		s.out.had = len(s.out.events)
		return execute(s.out.events, 0, s.way == diverges, 1), nil
	})
	answer("/outputs", func() ([]sent, error) { return s.out.leave(s.way), nil })
	answer("/golden", func() (_ []sent, err error) {
		r, err := j.NewReader(j.First())
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		var events []event
		for {
			rec, ok, err := r.TryNext()
			if err != nil || !ok {
				all := execute(events, 0, s.way == diverges, 0)
				if s.way == late {
					all = all[5:]
				}
				return all, err
			}
			if rec.Kind == journal.KindData {
				events = append(events, event{rec.First, slices.Clone(rec.Payload)})
			}
		}
	})
}

// recoveryAsked is what a service is promised to do that keeps ids, gate and dedup.
func recoveryAsked() *Recovery {
	ask := func(path string) *probe.Ask {
		return &probe.Ask{HTTP: &probe.HTTP{URL: "http://{address:http}" + path}}
	}
	return &Recovery{
		Required: "repeating", Approach: recovery.PassiveStandby, Class: recovery.Deterministic, IDs: true, Gate: true, Dedup: true,
		Outputs: Outputs{Before: ask("/held"), After: ask("/outputs"), Golden: ask("/golden"), Horizon: 1},
	}
}

// TestRecoveryType: a clone of a service that misbehaves with its outputs is told by them.
func TestRecoveryType(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, tc := range []struct {
		name    string
		way     string
		set     func(*Recovery)
		saw     string // the type, with what was seen besides
		outcome recovery.Outcome
		verdict judge.Outcome
		why     string // among the verdict's reasons, or the report's
	}{
		{"well behaved", well, nil, "precise", recovery.Holds, judge.Passed, ""},
		{"repeats", repeats, func(c *Recovery) { c.Required = "" }, "repeating", recovery.Failed, judge.Failed, "observed repeating is weaker than the predicted precise"},
		{"repeats, as predicted", repeats, func(c *Recovery) { c.Dedup = false }, "repeating", recovery.Holds, judge.Passed, "20 outputs again, identical"},
		{"forgets", forgets, nil, "convergent", recovery.Failed, judge.Failed, "weaker than the required repeating"},
		{"diverges", diverges, nil, "divergent", recovery.Failed, judge.Failed, "weaker than the required repeating"},
		{"loses", loses, nil, "gap", recovery.Failed, judge.Failed, "5 outputs missing"},
		{"reorders", reorders, nil, "divergent, with reordered", recovery.Failed, judge.Failed, "observed divergent"},
		{"loses and repeats", loosely, nil, "gap, with duplicates", recovery.Failed, judge.Failed, "5 outputs missing"},
		{"lucky", well, func(c *Recovery) { c.Approach, c.Required = recovery.UpstreamBackup, "" }, "precise", recovery.Lucky, judge.Passed, "lucky, not guaranteed"},
		{"a golden that begins late", late, nil, "unknown", recovery.Undecided, judge.Partial, "stream main: 5 outputs of before and after"},
		{"no golden", well, func(c *Recovery) { c.Outputs.Golden = nil }, "unknown", recovery.Undecided, judge.Partial, "there is no golden"},
		{"no answer", well, func(c *Recovery) { c.Outputs.Before.HTTP.URL = "http://{address:http}/nowhere" }, "", recovery.Undecided, judge.Partial, "what receivers had is not known"},
		{"not to be read", well, func(c *Recovery) { c.Outputs.After.HTTP.URL = "http://{address:http}/count" }, "", recovery.Undecided, judge.Partial, "outputs after"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.cfg = s.config(t, tc.way)
			c := recoveryAsked()
			if tc.set != nil {
				tc.set(c)
			}
			s.cfg.Recovery = c.withDefaults()
			if err := s.cfg.Recovery.validate(); err != nil {
				t.Fatal(err)
			}
			rep, v := s.drill(t, t.Context(), 60)
			got := rep.Recovery
			saw := ""
			if len(got.Vector) > 0 {
				var result recovery.Result
				if err := json.Unmarshal(got.Vector, &result); err != nil {
					t.Fatal(err)
				}
				saw = strings.Replace(result.String(), " up to "+result.Horizon.String(), "", 1)
			}
			why := strings.Join(slices.Concat(v.Sentences(), got.Reasons), "\n")
			if saw != tc.saw || *got.Outcome != string(tc.outcome) || v.Outcome != tc.verdict || !strings.Contains(why, tc.why) {
				t.Errorf("saw %q, %s; %s: want %q, %s; %s because %q\n%s\n%s", saw, *got.Outcome, v.Outcome, tc.saw, tc.outcome, tc.verdict, tc.why, why, outcomes(&rep))
			}
		})
	}
}

// TestUnaccounted: a stream that the golden leaves out is not taken for fine by those that
// it does not leave out.
func TestUnaccounted(t *testing.T) {
	of := func(name tidegate.StreamName, inputs ...tidegate.Position) (all []recovery.Output) {
		for _, at := range inputs {
			all = append(all, recovery.Output{ID: recovery.ID{Stream: name, Input: at}, Digest: tidegate.Digest{byte(at)}})
		}
		return all
	}
	at := func(eur, usd tidegate.Position) map[tidegate.StreamName]tidegate.Position {
		return map[tidegate.StreamName]tidegate.Position{"eur": eur, "usd": usd}
	}
	for name, tc := range map[string]struct {
		before, due []recovery.Output
		want        string // streams
	}{
		"all there":            {slices.Concat(of("eur", 10, 20), of("usd", 10)), slices.Concat(of("eur", 10, 20, 30), of("usd", 10)), ""},
		"a stream left out":    {slices.Concat(of("eur", 10, 20), of("usd", 10, 20)), of("eur", 10, 20, 30), "usd"},
		"of before the base":   {slices.Concat(of("eur", 1, 2, 10), of("usd", 4)), of("eur", 10), ""},
		"a beginning left out": {of("eur", 6, 10, 20), of("eur", 10, 20), "eur"},
		"behind the cut":       {slices.Concat(of("eur", 10), of("usd", 40)), of("eur", 10), ""},
		"both":                 {slices.Concat(of("eur", 10), of("usd", 10)), nil, "eur usd"},
	} {
		why := unaccounted(tc.before, tc.due, at(5, 5), at(40, 40))
		want := strings.Fields(tc.want)
		if len(why) != len(want) {
			t.Errorf("%s: %q, want %q", name, why, want)
			continue
		}
		for i := range why {
			if !strings.HasPrefix(why[i], "stream "+want[i]+": ") {
				t.Errorf("%s: %q, want %q", name, why, want)
			}
		}
	}
	for is, want := range map[recovery.Type][2]recovery.Type{
		recovery.Precise: {recovery.Unknown, recovery.Unknown}, recovery.Repeating: {recovery.Unknown, recovery.Repeating}, recovery.Gap: {recovery.Gap, recovery.Gap},
	} {
		r := recovery.Result{Type: is, AtBest: is}
		if got := doubt(r, nil); got.Type != is {
			t.Errorf("without a doubt: %s", got)
		}
		if got := doubt(r, []string{"why"}); got.Type != want[0] || got.AtBest != want[1] {
			t.Errorf("doubt of %s: %s", is, got)
		}
	}
}
