package snapshot

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

// TestCopyReadsAhead: extents that are read beside each other are written in their
// order, and none behind a damaged one, whatever was read meanwhile.
func TestCopyReadsAhead(t *testing.T) {
	const bad = 5
	content := tree{"a": noise(1, 9*ExtentBytes+100)}
	mem := vfs.NewMem()
	s := openStore(t, mem, "/base", StoreConfig{})
	l := mustPut(t, s, content, 1)
	if err := equal(s, l, content); err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader(l)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	file := 1 // behind the directory
	at, _ := s.find(r.m.Extents[file][bad])
	if err := mem.FlipBit(s.packPath(at.pack, packSuffix), 8*(at.offset+int64(at.length)-1)); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := r.Copy(t.Context(), file, &got); tidegate.ClassOf(err) != tidegate.Corrupt {
		t.Errorf("a damaged extent: %v", err)
	}
	if !bytes.Equal(got.Bytes(), content["a"][:bad*ExtentBytes]) {
		t.Errorf("%d bytes were written, want the %d before the damage", got.Len(), bad*ExtentBytes)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got.Reset()
	if err := r.Copy(ctx, file, cancelling{&got, cancel}); !errors.Is(err, context.Canceled) || got.Len() != ExtentBytes {
		t.Errorf("cancelled: %v after %d bytes", err, got.Len())
	}
}

// cancelling ends a context with the first write.
type cancelling struct {
	*bytes.Buffer

	cancel func()
}

func (c cancelling) Write(b []byte) (int, error) {
	defer c.cancel()
	return c.Buffer.Write(b)
}
