package snapshot

import (
	"bytes"
	"testing"

	"github.com/tidegate/tidegate/internal/vfs"
)

// TestSame compares what is on a disk with a file of a base, however that was cut.
func TestSame(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/bases", StoreConfig{})
	content := small()
	content["long.stream"] = noise(9, 3*ExtentBytes)
	r, err := s.Reader(mustPut(t, s, content, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, f := range r.Files() {
		if !f.filled() {
			continue
		}
		whole := content[f.Path]
		cases := map[string][]byte{"itself": whole, "longer": append(bytes.Clone(whole), 0)}
		if len(whole) > 0 {
			other := bytes.Clone(whole)
			other[len(other)-1] ^= 1
			cases["shorter"], cases["another"] = whole[:len(whole)-1], other
		}
		for name, have := range cases {
			if same, err := r.Same(t.Context(), i, bytes.NewReader(have)); err != nil || same != (name == "itself") {
				t.Errorf("%s, %s: %v, %v", f.Path, name, same, err)
			}
		}
	}
}
