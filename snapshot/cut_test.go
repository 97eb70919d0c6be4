package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/tidegate/tidegate/internal/vfs"
)

// cutAll returns the lengths of the extents of a stream that comes in pieces.
func cutAll(raw []byte, piece int) (lens []int) {
	var c cutter
	at := 0
	for begin := 0; at < len(raw); {
		n, cut := c.next(raw[at:min(at+piece, len(raw), begin+ExtentBytes)])
		at += n
		if cut || at-begin == ExtentBytes || at == len(raw) {
			lens = append(lens, at-begin)
			begin, c = at, cutter{}
		}
	}
	return lens
}

// TestCutsAreOfTheFormat: stores that were filled by different versions share extents
// only as long as these stay.
func TestCutsAreOfTheFormat(t *testing.T) {
	raw := noise(1, 8<<20)
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:4]) != "889101bc" {
		t.Fatalf("the sample is %x", sum[:4])
	}
	want := []int{313324, 311813, 610992, 1048576, 1048576, 407889, 768020, 871820, 720502, 698823, 949251, 639022}
	whole := cutAll(raw, len(raw))
	if !slices.Equal(whole, want) {
		t.Errorf("cut to %v", whole)
	}
	// How a stream comes does not matter.
	for _, piece := range []int{1 << 10, 100_003, CutMin} {
		if got := cutAll(raw, piece); !slices.Equal(got, whole) {
			t.Errorf("in pieces of %d: %v", piece, got)
		}
	}
	for i, n := range whole[:len(whole)-1] {
		if n < CutMin || n > ExtentBytes {
			t.Errorf("extent %d has %d bytes", i, n)
		}
	}
	// What does not let itself be cut is cut all the same.
	if got := cutAll(make([]byte, 2*ExtentBytes+1), 1<<20); !slices.Equal(got, []int{ExtentBytes, ExtentBytes, 1}) {
		t.Errorf("zeros: %v", got)
	}
}

// extents returns what a stream is cut into.
func extents(raw []byte) map[[sha256.Size]byte]int {
	all := map[[sha256.Size]byte]int{}
	for _, n := range cutAll(raw, len(raw)) {
		all[sha256.Sum256(raw[:n])] = n
		raw = raw[n:]
	}
	return all
}

// TestInsertionCutsLittleAnew: 24 MiB of state that grew at the front, in the middle
// and at the end have all but a few extents in common with what they were.
func TestInsertionCutsLittleAnew(t *testing.T) {
	old := noise(1, 24<<20)
	before := extents(old)
	grown := slices.Concat([]byte("a new account"), old[:8<<20], noise(2, 1000), old[8<<20:], []byte("one more"))
	anew := 0
	for x := range extents(grown) {
		if before[x] == 0 {
			anew++
		}
	}
	if len(before) < 24 || anew > 6 {
		t.Errorf("of %d extents %d are new", len(before), anew)
	}
}

// TestStreamsShareExtents: what a store is given again it does not store again.
func TestStreamsShareExtents(t *testing.T) {
	s := openStore(t, vfs.NewMem(), "/base", StoreConfig{})
	old := noise(1, 6<<20)
	first := mustPut(t, s, tree{"state.stream": old}, 1)
	grown := slices.Concat([]byte("a new account"), old)
	var meter Meter
	second, err := put(s, tree{"state.stream": grown}, 1, nil, &meter)
	if err != nil {
		t.Fatal(err)
	}
	if p := meter.Progress(); p.Bytes != int64(len(grown)) || p.Needed > 2*ExtentBytes {
		t.Errorf("%d of %d bytes were stored anew", p.Needed, p.Bytes)
	}
	if err := equal(s, first, tree{"state.stream": old}); err != nil {
		t.Error(err)
	}
	if err := equal(s, second, tree{"state.stream": grown}); err != nil {
		t.Error(err)
	}
}

func BenchmarkCut(b *testing.B) {
	raw := noise(1, 16<<20)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		cutAll(raw, 1<<20)
	}
}
