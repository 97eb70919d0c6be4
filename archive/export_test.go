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
	w.st.Archivist, w.since, w.until = true, w.Clock.Boot(), tidegate.Instant(math.MaxInt64/2)
}

// Lapse makes it one whose word has lapsed.
func (w *Writer) Lapse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.st.Archivist = false
}

// BasesStep mirrors bases, and carries out the rule if that is due.
func (w *Writer) BasesStep(ctx context.Context) error {
	_, err := w.basesStep(ctx)
	return err
}

// KeepPass carries out the rule once.
func (w *Writer) KeepPass(ctx context.Context) error {
	since, _ := w.tenure()
	return w.keepPass(ctx, since)
}

// MirrorStep mirrors bases once.
func (w *Writer) MirrorStep(ctx context.Context) error {
	_, err := w.mirrorStep(ctx)
	return err
}

// ScarStep writes down what gaps have led to, of an archive that ends before next.
func (w *Writer) ScarStep(ctx context.Context, next tidegate.Seq) error {
	w.mu.Lock()
	w.st.Known, w.st.Next = true, next
	w.mu.Unlock()
	return w.scarStep(ctx)
}
