package snapshot

import "crypto/sha256"

// Sizes of a stream's extents, in bytes. None but the last is smaller than CutMin;
// [ExtentBytes] is the largest.
const (
	CutMin    = 256 << 10
	CutNormal = 512 << 10 // from here on a cut is likelier
)

// A cut is made behind a byte where these bits of the hash are 0: with 20 of them
// before CutNormal, with 18 from there on, so that most extents are near CutNormal
// (Xia et al., FastCDC, USENIX ATC 2016, "normalized chunking").
const (
	cutHard = uint64(1<<20-1) << (64 - 20)
	cutEasy = uint64(1<<18-1) << (64 - 18)
)

// cutWindow is how many bytes the hash remembers: each step shifts one bit out.
const cutWindow = 64

// gearTag and the byte's value give what a byte adds to the hash.
const gearTag = "tidegate gear 1"

// gear is part of the format only so far as stores share extents that were cut
// alike: a reader takes the lengths from the manifest.
var gear = func() (t [256]uint64) {
	for i := range t {
		sum := sha256.Sum256(append([]byte(gearTag), byte(i)))
		t[i] = le.Uint64(sum[:])
	}
	return t
}()

// cutter finds where a stream is cut. What is inserted or taken out moves the cuts
// around it and no others: they depend on the bytes before them alone. It is fed
// what comes; the zero value is at an extent's beginning.
type cutter struct {
	hash uint64
	n    int // bytes of the extent so far
}

// next takes bytes of p up to a cut, which is behind the last of them, or all. It
// is never given more than what is left of ExtentBytes, where whoever feeds it cuts.
func (c *cutter) next(p []byte) (n int, cut bool) {
	// What lies further back than the window before the first place that can be one
	// has no part in it.
	if skip := CutMin - cutWindow - c.n; skip > 0 {
		n = min(skip, len(p))
		c.n += n
	}
	hash, at := c.hash, c.n
	for ; n < len(p); n++ {
		hash = hash<<1 + gear[p[n]]
		at++
		mask := cutHard
		if at > CutNormal {
			mask = cutEasy
		}
		if at >= CutMin && hash&mask == 0 {
			*c = cutter{}
			return n + 1, true
		}
	}
	c.hash, c.n = hash, at
	return n, false
}
