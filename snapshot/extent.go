package snapshot

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/tidegate/tidegate"
)

var le = binary.LittleEndian

// Extent is up to [ExtentBytes] of a file from a multiple of that on, by the
// names of its pages.
//
// Invariants: 1 <= Bytes <= ExtentBytes; len(Pages) is Bytes in pages, rounded
// up; Name is what [nameExtent] gives.
type Extent struct {
	Name  Name
	Bytes int
	Pages []Name // the last one may be of a shorter page
}

// extentTag keeps the name of a list of pages apart from that of a page with the
// same bytes.
const extentTag = "tidegate extent 1"

// Cut names raw, 1 to ExtentBytes long, page by page; it reuses x.Pages.
func (x *Extent) Cut(raw []byte) {
	x.Bytes, x.Pages = len(raw), x.Pages[:0]
	for rest := raw; len(rest) > 0; {
		page := rest[:min(PageBytes, len(rest))]
		x.Pages = append(x.Pages, sha256.Sum256(page))
		rest = rest[len(page):]
	}
	x.Name = nameExtent(x.Bytes, x.Pages)
}

func nameExtent(bytes int, pages []Name) (n Name) {
	h := sha256.New()
	var head [len(extentTag) + 4]byte
	copy(head[:], extentTag)
	le.PutUint32(head[len(extentTag):], uint32(bytes))
	_, _ = h.Write(head[:]) // a hash never fails
	for i := range pages {
		_, _ = h.Write(pages[i][:])
	}
	h.Sum(n[:0])
	return n
}

// pagesOf returns how many pages bytes make.
func pagesOf(bytes int) int { return (bytes + PageBytes - 1) / PageBytes }

// pageLen returns the length of page i.
func (x *Extent) pageLen(i int) int { return min(PageBytes, x.Bytes-i*PageBytes) }

// check verifies the invariants of an extent that was received or read.
func (x *Extent) check() error {
	switch {
	case x.Bytes < 1 || x.Bytes > ExtentBytes:
		return fmt.Errorf("extent of %d bytes: want 1 to %d", x.Bytes, ExtentBytes)
	case len(x.Pages) != pagesOf(x.Bytes):
		return fmt.Errorf("extent of %d bytes with %d pages", x.Bytes, len(x.Pages))
	case nameExtent(x.Bytes, x.Pages) != x.Name:
		return fmt.Errorf("extent %.12s is not named by its pages", x.Name)
	}
	return nil
}

// Verify reports whether raw is what x names.
func (x *Extent) Verify(raw []byte) error {
	if len(raw) != x.Bytes {
		return corruptExtent(x.Name, fmt.Sprintf("%d bytes, want %d", len(raw), x.Bytes))
	}
	for i := range x.Pages {
		if page := raw[i*PageBytes:][:x.pageLen(i)]; sha256.Sum256(page) != x.Pages[i] {
			return corruptExtent(x.Name, fmt.Sprintf("page %d is not what its name says", i))
		}
	}
	if nameExtent(x.Bytes, x.Pages) != x.Name {
		return corruptExtent(x.Name, "not named by its pages")
	}
	return nil
}

func corruptExtent(n Name, what string) error {
	return &tidegate.CorruptError{Path: "extent " + n.String(), Offset: -1, What: what}
}

// Place is the number of the extent that begins at offset in the file path. Two
// places may share a number; then sharing pages between them is lost, and
// nothing else.
func Place(path string, offset int64) uint64 {
	h := sha256.New()
	_, _ = h.Write(le.AppendUint64(append([]byte(path), 0), uint64(offset))) // a hash never fails
	var sum [sha256.Size]byte
	return le.Uint64(h.Sum(sum[:0]))
}

// Need is a set of pages of one extent: bit i of byte i/8 is page i.
type Need [ExtentPages / 8]byte

// Has reports whether page i is in the set.
func (n *Need) Has(i int) bool { return n[i/8]>>(i%8)&1 == 1 }

// Add puts page i into the set.
func (n *Need) Add(i int) { n[i/8] |= 1 << (i % 8) }

// Count returns the number of pages in the set.
func (n *Need) Count() (c int) {
	for _, b := range n {
		c += bits.OnesCount8(b)
	}
	return c
}

// Bytes returns how many bytes of x are in the set.
func (n *Need) Bytes(x *Extent) (sum int) {
	for i := range x.Pages {
		if n.Has(i) {
			sum += x.pageLen(i)
		}
	}
	return sum
}

// Within reports whether every page of the set is one of x.
func (n *Need) Within(x *Extent) bool {
	for i := len(x.Pages); i < ExtentPages; i++ {
		if n.Has(i) {
			return false
		}
	}
	return true
}

// Pick appends the pages of the set, in their order, out of the whole extent.
func (n *Need) Pick(dst []byte, x *Extent, raw []byte) []byte {
	for i := range x.Pages {
		if n.Has(i) {
			dst = append(dst, raw[i*PageBytes:][:x.pageLen(i)]...)
		}
	}
	return dst
}
