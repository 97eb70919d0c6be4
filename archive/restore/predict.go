package restore

import (
	"context"
	"time"

	"github.com/tidegate/tidegate/archive/restore/past"
	"github.com/tidegate/tidegate/internal/clock"
)

// Prediction is how long a recovery will take.
type Prediction struct {
	Restore Span // all that [Plan.Run] does
	Replay  Span // what the service then replays, or the server that is started
}

// Span is a time that may be unknown.
type Span struct {
	Took  time.Duration
	Known bool
	By    int // recoveries that it rests on; 0: a sample of the archive, or nothing to be done
}

// Predict says how long a plan will take, by what this machine's recoveries took. Where
// none was like it, the archive is sampled: that says how fast it is read, and nothing of
// what is done with it. The replay is the store's own, so of that no sample tells.
func (p *Plan) Predict(ctx context.Context, clk clock.Clock, all past.Recoveries) (out Prediction, err error) {
	want := p.recovery()
	if p.Base != nil && p.Base.Store == nil {
		// It has still to cross from a node, and of that nothing is known. What is behind
		// it, the replay, is.
		want.Parts = map[past.Part]past.Timing{past.Replay: {Bytes: p.ReplayBytes()}}
		out.Replay.Took, out.Replay.By, out.Replay.Known = all.Predict(&want)
		return out, nil
	}
	want.Parts = map[past.Part]past.Timing{past.Files: {Bytes: p.BaseBytes}, past.Log: {Bytes: p.RawBytes}, past.Rest: {}}
	out.Restore.Took, out.Restore.By, out.Restore.Known = all.Predict(&want)
	if !out.Restore.Known {
		rate, known, err := p.Stream.Sample(ctx, clk)
		if err != nil {
			return out, err
		}
		if known {
			// Stored bytes are fewer than what they become; how many fewer the base's
			// are shows only when they come.
			out.Restore = Span{time.Duration(float64(p.BaseBytes+p.LogBytes) / rate * float64(time.Second)), true, 0}
		}
	}
	want.Parts = map[past.Part]past.Timing{past.Replay: {Bytes: p.ReplayBytes()}}
	out.Replay.Took, out.Replay.By, out.Replay.Known = all.Predict(&want)
	return out, nil
}

// ReplayBytes is the log that whoever starts from what was restored replays.
func (p *Plan) ReplayBytes() int64 { return int64(p.End.Next - p.From()) }

func (p *Plan) recovery() past.Recovery {
	return past.Recovery{Archive: p.Stream.String(), Store: p.Stream.Info.Store, Stream: p.Stream.Info.Stream}
}

// Took is what a run of the plan took, for the next prediction. replay is how long what
// was restored took to start; 0: it was not started. worth is false where it tells
// nothing: a restore that went on with an earlier attempt has not done everything.
func (p *Plan) Took(ended time.Time, out *Result, replay time.Duration) (r past.Recovery, worth bool) {
	r = p.recovery()
	r.Ended = ended.UTC()
	r.Parts = map[past.Part]past.Timing{past.Log: {Bytes: p.RawBytes, Took: out.Log}, past.Rest: {Took: max(1, out.Took-out.Files-out.Log)}}
	if p.Base != nil {
		r.Parts[past.Files] = past.Timing{Bytes: p.BaseBytes, Took: out.Files}
	}
	if replay > 0 {
		r.Parts[past.Replay] = past.Timing{Bytes: int64(out.Position - p.From()), Took: replay}
	}
	return r, !out.Resumed
}
