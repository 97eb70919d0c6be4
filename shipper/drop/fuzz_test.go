package drop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/archive/bucket"
)

// FuzzParsePiece: what is taken for the name of a piece is exactly what makes one, and
// lies where only this node looks.
func FuzzParsePiece(f *testing.F) {
	id := tidegate.ID{1, 2, 3}
	f.Add(pieceName(node, id, wayUp, 0))
	f.Add(pieceName(node, id, wayDown, 1<<63))
	f.Add(strings.ToUpper(pieceName(node, id, wayUp, 0xabc)))
	f.Add("drop/west1/" + id.String() + "-up-+00000000000000a")
	f.Fuzz(func(t *testing.T, name string) {
		id, w, number, err := parsePiece(node, name)
		if err != nil {
			return
		}
		if again := pieceName(node, id, w, number); again != name {
			t.Fatalf("%q was taken for %q", name, again)
		}
		if !strings.HasPrefix(name, nodePrefix(node)) || bucket.ValidName(name) != nil {
			t.Fatalf("%q was taken", name)
		}
		if _, _, _, err := parsePiece(node+"0", name); err == nil {
			t.Fatalf("%q is of two nodes", name)
		}
	})
}

// FuzzPieces: whatever lies in the pieces of a direction, a reader gets their bytes in
// order, up to the first empty one, and then the end.
func FuzzPieces(f *testing.F) {
	f.Add([]byte("one"), []byte("two"), []byte(""), []byte("behind the end"))
	f.Add([]byte(""), []byte("x"), []byte(""), []byte(""))
	f.Add(bytes.Repeat([]byte{0}, 70<<10), []byte{0xff}, []byte("\x16\x03\x01"), []byte{})
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		synctest.Test(t, func(t *testing.T) {
			in := memory(t)
			drop := New(in, Config{})
			conn := drop.open(node, tidegate.ID{1}, wayDown, nil, nil)
			var want []byte
			over := false
			for i, piece := range [][]byte{a, b, c, d, nil} {
				if _, err := in.Put(t.Context(), pieceName(node, tidegate.ID{1}, wayUp, uint64(i)), bytes.NewReader(piece), bucket.PutOptions{IfAbsent: true}); err != nil {
					t.Fatal(err)
				}
				if over = over || len(piece) == 0; !over {
					want = append(want, piece...)
				}
			}
			// The end may have come already, when the first piece is an empty one.
			if err := conn.SetReadDeadline(time.Now().Add(time.Hour)); err != nil && !(errors.Is(err, io.EOF) && len(want) == 0) {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil && !errors.Is(err, net.ErrClosed) || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v; want %d", len(got), err, len(want))
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
			drop.Wait()
		})
	})
}
