package deltalog

import (
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/seglog"
)

// Empty reports whether the log holds no batch. One that was begun in the middle
// of the stream and was given nothing yet ends where it begins.
func (l *Log) Empty() bool { return l.log.First() == l.log.End() }

// TrimPoint returns the seq of the oldest batch that is left when whole segments
// before seq go, so many at most: it is seq or less.
func (l *Log) TrimPoint(seq tidegate.Seq, most int) tidegate.Seq {
	return tidegate.Seq(l.log.TrimPoint(uint64(seq), most))
}

// Behind returns a seq from which on the log holds at least so many bytes of
// batches; its first where it holds less.
func (l *Log) Behind(bytes int64) tidegate.Seq { return tidegate.Seq(l.log.Behind(bytes)) }

// TrimBefore removes the oldest segments as long as all their batches are
// before seq. It may run beside the appender. An error has stopped the log.
func (l *Log) TrimBefore(seq tidegate.Seq) error { return l.log.TrimBefore(uint64(seq)) }

// Begin makes an empty log one that goes on behind a position in the middle of the
// stream, as Config.Before does for a new one; see seglog.Log.Begin. The appender
// must stand still.
func (l *Log) Begin(before tidegate.LogPos) error {
	if err := l.log.Begin(uint64(before.Seq)+1, seglog.State(before.Chain)); err != nil {
		return fmt.Errorf("begin stream %s behind %s: %w", l.stream, before, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end, l.durable, l.recent = end{pos: before}, before, recent{}
	return nil
}

// Before returns the position behind which the log begins; its epoch is not known.
func (l *Log) Before() (tidegate.LogPos, error) {
	state, err := l.log.FirstState()
	return tidegate.LogPos{Seq: l.First() - 1, Chain: tidegate.Chain(state)}, err
}
