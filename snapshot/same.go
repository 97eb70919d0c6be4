package snapshot

import (
	"context"
	"errors"
	"io"
)

// Same reports whether have, to its end, is the file Files()[i], by the names of its
// pages: what a restore that was cut off has written need not be read again.
func (r *Reader) Same(ctx context.Context, i int, have io.Reader) (bool, error) {
	buf := make([]byte, ExtentBytes)
	var x Extent
	for j, want := range r.m.Extents[i] {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		raw := buf[:r.m.extentLen(i, j)]
		if _, err := io.ReadFull(have, raw); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return false, nil
			}
			return false, err
		}
		if x.Cut(raw); x.Name != want {
			return false, nil
		}
	}
	n, err := have.Read(buf[:1])
	if n == 0 && errors.Is(err, io.EOF) {
		return true, nil
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return false, err
}
