package deltalog

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/quarantine"
	"github.com/tidegate/tidegate/internal/seglog"
)

// Summary says what was cut, as the bundle in quarantine does.
type Summary struct {
	Stream     tidegate.StreamID
	Epoch      tidegate.Epoch   // under which the cut was ordered
	Epochs     []tidegate.Epoch // of the batches, ascending
	FirstSeq   tidegate.Seq     // inclusive
	LastSeq    tidegate.Seq     // inclusive
	Batches    int64            // of every kind
	Records    int64            // of the source
	RawBytes   int64            // of payloads, opened
	OldestTime time.Time        // source wall time
	NewestTime time.Time
	Reason     string
	Created    time.Time
	Dir        string // where it lies; empty when there was nothing to cut

	// Generation and Positions are of the batches with records; zero and nil when
	// there were none, or of more than one generation: their positions do not compare.
	Generation tidegate.Generation
	Positions  *quarantine.Positions
}

// bundle is the summary in the one form that all of quarantine has.
func (s *Summary) bundle() quarantine.Summary {
	return quarantine.Summary{
		Kind: quarantine.KindLogTail, StreamID: s.Stream, Reason: s.Reason, Created: s.Created,
		Generation: s.Generation, CutEpoch: s.Epoch, WrittenEpochs: s.Epochs,
		Positions: s.Positions, Seqs: &quarantine.Seqs{First: s.FirstSeq, Last: s.LastSeq},
		Batches: &s.Batches, Records: &s.Records, Bytes: &s.RawBytes, Oldest: s.OldestTime, Newest: s.NewestTime,
	}
}

// CutTo makes seq the last batch. Everything beyond lies in
// <quarantineRoot>/<stream>/<epoch>-<first>-<last>-<reason>/ before it leaves
// the log, synced, as segments and with a summary. The reason is a name
// ([tidegate.ValidName]); clk stamps the summary. Nothing beyond seq: an empty
// Summary. Errors and the rules for concurrency are those of seglog.Log.CutTo.
func (l *Log) CutTo(seq tidegate.Seq, quarantineRoot string, epoch tidegate.Epoch, reason string, clk clock.Clock) (Summary, error) {
	last := l.End()
	if seq == last.Seq {
		return Summary{}, nil
	}
	sum, newEnd, err := l.prepareCut(seq, last, epoch, reason, clk)
	if err != nil {
		return Summary{}, fmt.Errorf("cut stream %s to %s: %w", l.stream, seq, err)
	}
	bundle := sum.bundle()
	note, err := bundle.Encode()
	if err != nil {
		return Summary{}, err
	}
	name := fmt.Sprintf("%s-%s-%s-%s", epoch, sum.FirstSeq, sum.LastSeq, reason)
	cut, err := l.log.CutTo(uint64(seq)+1, filepath.Join(quarantineRoot, l.stream.String(), name), reason,
		seglog.Attachment{Name: quarantine.SummaryName, Data: note})
	if err != nil {
		return Summary{}, err
	}
	sum.Dir = cut.Dir
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end, l.durable = newEnd, newEnd.pos
	l.recent.cut(seq)
	return sum, nil
}

func (l *Log) prepareCut(seq tidegate.Seq, last tidegate.LogPos, epoch tidegate.Epoch, reason string, clk clock.Clock) (Summary, end, error) {
	if err := tidegate.ValidName(reason); err != nil {
		return Summary{}, end{}, err
	}
	if seq > last.Seq || seq+1 < l.First() {
		return Summary{}, end{}, fmt.Errorf("log holds %s to %s: %w", l.First(), last.Seq, tidegate.ErrNotFound)
	}
	newEnd, err := l.endAt(seq, 0)
	if err != nil {
		return Summary{}, end{}, err
	}
	sum := Summary{
		Stream: l.stream, Epoch: epoch, FirstSeq: seq + 1, LastSeq: last.Seq,
		Reason: reason, Created: clk.Wall().UTC(),
	}
	generations := 0
	for s := sum.FirstSeq; s <= sum.LastSeq; s++ {
		_, h, err := l.At(s)
		if err != nil {
			return Summary{}, end{}, err
		}
		if h.Next > h.First && h.Generation != sum.Generation {
			sum.Generation, sum.Positions = h.Generation, &quarantine.Positions{First: h.First}
			generations++
		}
		sum.add(&h)
	}
	if generations > 1 {
		sum.Generation, sum.Positions = 0, nil
	}
	return sum, newEnd, nil
}

func (s *Summary) add(h *batch.Header) {
	s.Batches++
	s.Records += int64(h.Records)
	s.RawBytes += int64(h.RawLen)
	if s.Positions != nil && h.Generation == s.Generation {
		s.Positions.Next = max(s.Positions.Next, h.Next)
	}
	if !slices.Contains(s.Epochs, h.Epoch) {
		s.Epochs = append(s.Epochs, h.Epoch)
	}
	if t := time.Unix(0, h.OldestTime).UTC(); s.Batches == 1 || t.Before(s.OldestTime) {
		s.OldestTime = t
	}
	if t := time.Unix(0, h.NewestTime).UTC(); s.Batches == 1 || t.After(s.NewestTime) {
		s.NewestTime = t
	}
}
