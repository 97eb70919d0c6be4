package local

import (
	"context"
	"fmt"

	"github.com/tidegate/tidegate"
)

// GiveState gives a library the bytes of a snapshot that it has been sent, in the order
// in which it asks for them. read fills a part with what comes next; its error is
// returned. asks is fed by whoever receives from the library, and over is closed when it
// says nothing more: then nil is returned, for it has all of it, or does not want it.
func (c *Conn) GiveState(ctx context.Context, m *Snapshot, read func(part []byte) error, asks <-chan SnapshotRead, over <-chan struct{}) error {
	buf := make([]byte, PartMax)
	for offset := uint64(0); ; {
		select {
		case ask := <-asks:
			if ask.Position != m.Position || ask.Offset != offset || offset+uint64(ask.Bytes) > m.Size {
				return fmt.Errorf("library asks for bytes %d and on of the state at %s, due are those from %d on", ask.Offset, ask.Position, offset)
			}
			part := buf[:ask.Bytes]
			if err := read(part); err != nil {
				return err
			}
			if err := c.Send(&SnapshotPart{Position: ask.Position, Offset: ask.Offset, Payload: part}); err != nil {
				return &tidegate.Error{Op: "give base to the service", Class: tidegate.Transient, Err: err}
			}
			offset += uint64(len(part))
		case <-over:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
