package deltalog

import (
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/seglog"
)

// formatMagic names sealed batches in segment headers.
const formatMagic = "TGDL"

// Format is how a segment log reads sealed batches: the index is the seq, the
// state is the chain. The zero Stream accepts any stream, for tools that look
// into quarantine.
type Format struct {
	Stream tidegate.StreamID
}

var _ seglog.Chained = Format{}

// Magic implements [seglog.Format].
func (Format) Magic() [4]byte { return [4]byte([]byte(formatMagic)) }

// HeaderLen implements [seglog.Format].
func (Format) HeaderLen() int { return batch.HeaderSize }

// Parse implements [seglog.Format].
func (f Format) Parse(hdr []byte, at uint64) (seglog.Record, error) {
	h, err := batch.ParseHeader(hdr)
	if err != nil {
		return seglog.Record{}, err
	}
	if uint64(h.Seq) != at {
		return seglog.Record{}, fmt.Errorf("batch says seq %s, its place is that of %s", h.Seq, tidegate.Seq(at))
	}
	if !f.Stream.IsZero() && h.Stream != f.Stream {
		return seglog.Record{}, fmt.Errorf("batch %s belongs to stream %s, not %s", h.Seq, h.Stream, f.Stream)
	}
	return seglog.Record{Len: h.SealedLen(), Next: at + 1}, nil
}

// Verify implements [seglog.Format].
func (Format) Verify(rec []byte, _ uint64) error {
	_, err := batch.VerifyBytes(rec)
	return err
}

// State implements [seglog.Chained].
func (Format) State(rec []byte) seglog.State { return seglog.State(batch.ChainOf(rec)) }

// Follows implements [seglog.Chained].
func (Format) Follows(prev seglog.State, rec []byte) error {
	if !batch.Follows(rec, tidegate.Chain(prev)) {
		return fmt.Errorf("batch does not follow chain %s", tidegate.Chain(prev))
	}
	return nil
}
