package deltalog

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/clock"
	"github.com/tidegate/tidegate/internal/seglog"
)

// SummaryName is the file beside the batches in a quarantine directory.
const SummaryName = "summary.json"

// Summary says what was cut. It is [SummaryName] in the quarantine directory.
type Summary struct {
	Stream     tidegate.StreamID `json:"stream"`
	Epoch      tidegate.Epoch    `json:"epoch"`       // under which the cut was ordered
	Epochs     []tidegate.Epoch  `json:"epochs"`      // of the batches, ascending
	FirstSeq   tidegate.Seq      `json:"first_seq"`   // inclusive
	LastSeq    tidegate.Seq      `json:"last_seq"`    // inclusive
	Batches    int64             `json:"batches"`     // of every kind
	Records    int64             `json:"records"`     // of the source
	RawBytes   int64             `json:"raw_bytes"`   // of payloads, opened
	OldestTime time.Time         `json:"oldest_time"` // source wall time
	NewestTime time.Time         `json:"newest_time"`
	Reason     string            `json:"reason"`
	Created    time.Time         `json:"created"`
	Dir        string            `json:"-"` // where it lies; empty when there was nothing to cut
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
	note, err := json.MarshalIndent(sum, "", "  ")
	if err != nil {
		return Summary{}, err
	}
	name := fmt.Sprintf("%s-%s-%s-%s", epoch, sum.FirstSeq, sum.LastSeq, reason)
	cut, err := l.log.CutTo(uint64(seq)+1, filepath.Join(quarantineRoot, l.stream.String(), name), reason,
		seglog.Attachment{Name: SummaryName, Data: append(note, '\n')})
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
	for s := sum.FirstSeq; s <= sum.LastSeq; s++ {
		_, h, err := l.At(s)
		if err != nil {
			return Summary{}, end{}, err
		}
		sum.add(&h)
	}
	return sum, newEnd, nil
}

func (s *Summary) add(h *batch.Header) {
	s.Batches++
	s.Records += int64(h.Records)
	s.RawBytes += int64(h.RawLen)
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
