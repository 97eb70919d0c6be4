package archive

import (
	"context"
	"math"

	"github.com/tidegate/tidegate"
)

// Hold makes the writer the one that uploads.
func (w *Writer) Hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.st.Archivist, w.until = true, tidegate.Instant(math.MaxInt64)
}

// KeepPass carries out the rule once.
func (w *Writer) KeepPass(ctx context.Context) error { return w.keepPass(ctx) }

// MirrorStep mirrors bases once.
func (w *Writer) MirrorStep(ctx context.Context) error {
	_, err := w.mirrorStep(ctx)
	return err
}
