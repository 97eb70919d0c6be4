package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/batch"
	"github.com/tidegate/tidegate/internal/vfs"
	"github.com/tidegate/tidegate/standby/deltalog"
)

// Chain is what a standby node's log of one stream turned out to be.
type Chain struct {
	Node   string
	Chains []tidegate.Chain // after each batch; the first is seq 1
	Epochs int              // how many different ones wrote it
}

// ReadLog reads a copy of a delta log from its first batch to its last and
// checks every link again: seq, chain, epoch and positions. dir is the stream's
// directory at a node that does not run any more; the copy goes to scratch.
func ReadLog(ctx context.Context, dir, scratch, node string) (c Chain, err error) {
	c.Node = node
	// Opening recovers, which writes: what a node left is not touched.
	if err := os.CopyFS(scratch, os.DirFS(filepath.Join(dir, "log"))); err != nil {
		return c, err
	}
	id, err := tidegate.ParseID(filepath.Base(dir))
	if err != nil {
		return c, err
	}
	log, _, err := deltalog.Open(vfs.OS(), scratch, id, deltalog.Config{})
	if err != nil {
		return c, err
	}
	defer log.Close() //nolint:errcheck // a copy
	if first := log.First(); first != 1 {
		return c, fmt.Errorf("log of %s begins at %s", node, first)
	}
	cursor, err := log.ReadFrom(1)
	if err != nil {
		return c, err
	}
	defer cursor.Close() //nolint:errcheck // only read
	var at links
	for end := log.End().Seq; at.seq < end; {
		_, sealed, err := cursor.Next(ctx)
		if err != nil {
			return c, fmt.Errorf("log of %s after %s: %w", node, at.seq, err)
		}
		h, err := batch.Verify(sealed, at.chain)
		if err == nil {
			err = at.take(&h)
		}
		if err != nil {
			return c, fmt.Errorf("log of %s after %s: %w", node, at.seq, err)
		}
		c.Chains = append(c.Chains, h.Chain)
	}
	c.Epochs = at.epochs
	return c, nil
}

// links is the end of what was read so far.
type links struct {
	seq        tidegate.Seq
	chain      tidegate.Chain
	epoch      tidegate.Epoch
	generation tidegate.Generation
	next       tidegate.Position
	epochs     int
}

// take checks that h is the batch that comes next: nothing left out, nothing twice.
func (l *links) take(h *batch.Header) error {
	switch {
	case h.Seq != l.seq+1:
		return fmt.Errorf("next comes batch %s", h.Seq)
	case h.Epoch < l.epoch:
		return fmt.Errorf("batch %s is of epoch %s, below %s", h.Seq, h.Epoch, l.epoch)
	case h.Generation < l.generation:
		return fmt.Errorf("batch %s is of generation %d, below %d", h.Seq, h.Generation, l.generation)
	case h.Generation == l.generation && h.First > l.next:
		return fmt.Errorf("gap: batch %s begins at %s, want %s", h.Seq, h.First, l.next)
	case h.Generation == l.generation && h.First < l.next:
		return fmt.Errorf("duplicate: batch %s begins at %s, want %s", h.Seq, h.First, l.next)
	}
	if h.Epoch != l.epoch {
		l.epochs++
	}
	l.seq, l.chain, l.epoch, l.generation, l.next = h.Seq, h.Chain, h.Epoch, h.Generation, h.Next
	return nil
}

// Differ reports where two nodes' logs differ, as far as both go; nil if nowhere.
func (c Chain) Differ(other Chain) error {
	for i := range min(len(c.Chains), len(other.Chains)) {
		if c.Chains[i] != other.Chains[i] {
			return fmt.Errorf("logs of %s and %s differ at batch %s", c.Node, other.Node, tidegate.Seq(i+1))
		}
	}
	return nil
}
