package archive

import (
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
)

// Relation is how a segment stands to a log.
type Relation uint8

// The relations.
const (
	// Below: it ends before the log begins. Only a reader of the archive can say
	// whether it leads there.
	Below Relation = iota + 1
	// Same: its end is in the log.
	Same
	// Ahead: it reaches beyond the log's end, in the epoch that the log has adopted.
	Ahead
	// Left: it is of a branch that the stream has left.
	Left
	// Against: it says something else than the log, and nothing that the log knows
	// makes one of them the older. Nobody archives until people have looked.
	Against
)

// History is a log as far as it decides what of an archive is of it.
type History struct {
	First tidegate.Seq // oldest batch kept
	End   tidegate.Seq // newest received
	// Epoch is the one that the log has adopted, Start its first batch.
	Epoch tidegate.Epoch
	Start tidegate.Seq
	// At returns the position behind a batch; tidegate.ErrNotFound when it has been
	// trimmed since.
	At func(tidegate.Seq) (tidegate.LogPos, error)
}

// Relate says how a segment stands to the log. An error is that of At.
//
// A log that has adopted an epoch is the stream as that epoch chose it: a segment of
// an older one that it does not have was left behind. In its own epoch, and at one
// seq of any other, there is one truth; and of a newer epoch it knows nothing.
func (h History) Relate(s Segment) (Relation, error) {
	switch {
	case s.Last < h.First:
		return Below, nil
	case s.Last > h.End:
		switch {
		case s.Epoch > h.Epoch:
			return Against, nil
		case s.Epoch == h.Epoch:
			return Ahead, nil
		}
		return Left, nil
	}
	pos, err := h.At(s.Last)
	switch {
	case errors.Is(err, tidegate.ErrNotFound):
		return Below, nil
	case err != nil:
		return 0, fmt.Errorf("compare with segment %s: %w", s, err)
	case pos.Chain == s.Chain:
		return Same, nil
	case s.Epoch == pos.Epoch, s.Epoch >= h.Epoch:
		return Against, nil
	}
	return Left, nil
}
