package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
)

// Limits of a manifest, in bytes and entries.
const (
	ManifestBytesMax = 1 << 30 // 30 TB of files
	filesMax         = 16 << 20
	pathBytesMax     = 4096
	lineageBytesMax  = 4096
)

const (
	manifestMagic   = "TGBM"
	manifestVersion = 2 // of one that has streams; of any other [version]
)

// Info says what a base is of, and when.
type Info struct {
	Stream     tidegate.StreamID
	Generation tidegate.Generation
	// Opened is the epoch under which the generation's first batch was sealed. A
	// generation's number can be given twice, when the log that first had it lost
	// its tail; its number and this epoch together cannot.
	Opened tidegate.Epoch
	Taken  int64 // wall time at the end, unix ns
	Base
}

// Manifest is the list of a base's files. Its name is that of its bytes.
//
// Invariants: paths are clean, relative and unique, and none leads through a
// link; a file has one extent per ExtentBytes, rounded up, a stream as many as Cuts
// says, which add up to its size, anything else none.
type Manifest struct {
	Info
	Files   []File
	Extents [][]Name // per file
	Cuts    [][]int  // per file, of a stream the lengths of its extents; may be nil where there is none
}

// streams reports whether a file is cut by its content, which version 1 does not know.
func (m *Manifest) streams() bool {
	return slices.ContainsFunc(m.Files, func(f File) bool { return f.Kind == KindStream })
}

// Bytes adds up the files.
func (m *Manifest) Bytes() (sum int64) {
	for i := range m.Files {
		sum += m.Files[i].Size
	}
	return sum
}

// Encode returns the manifest's bytes and its name.
func (m *Manifest) Encode() ([]byte, Name, error) {
	if err := m.check(); err != nil {
		return nil, Name{}, &tidegate.Error{Op: "encode manifest", Class: tidegate.Misuse, Err: err}
	}
	b := append([]byte(nil), manifestMagic...)
	v := uint16(version) // whoever knows no streams reads what has none
	if m.streams() {
		v = manifestVersion
	}
	b = le.AppendUint16(b, v)
	b = le.AppendUint16(b, 0)
	b = append(b, m.Stream[:]...)
	b = le.AppendUint32(b, uint32(m.Generation))
	b = le.AppendUint64(b, uint64(m.Opened))
	b = le.AppendUint64(b, uint64(m.Taken))
	b = le.AppendUint64(b, uint64(m.Start))
	b = le.AppendUint64(b, uint64(m.End))
	b = appendText(b, string(m.Lineage))
	b = le.AppendUint32(b, uint32(len(m.Attrs)))
	for _, k := range slices.Sorted(maps.Keys(m.Attrs)) {
		b = appendText(appendText(b, k), m.Attrs[k])
	}
	b = le.AppendUint32(b, uint32(len(m.Files)))
	for i := range m.Files {
		f := &m.Files[i]
		b = appendText(b, f.Path)
		b = append(b, byte(f.Kind))
		b = le.AppendUint32(b, f.Mode)
		b = le.AppendUint64(b, uint64(f.Size))
		b = le.AppendUint64(b, uint64(f.ModTime))
		b = appendText(b, f.Link)
		if f.Kind == KindStream {
			b = le.AppendUint32(b, uint32(len(m.Extents[i])))
		}
		for j := range m.Extents[i] {
			b = append(b, m.Extents[i][j][:]...)
			if f.Kind == KindStream {
				b = le.AppendUint32(b, uint32(m.Cuts[i][j]))
			}
		}
	}
	return b, sha256.Sum256(b), nil
}

func appendText(b []byte, s string) []byte {
	return append(le.AppendUint32(b, uint32(len(s))), s...)
}

// extentsOf returns how many extents a file of size bytes has.
func extentsOf(size int64) int { return int((size + ExtentBytes - 1) / ExtentBytes) }

// ParseManifest parses what Encode wrote, and nothing else.
func ParseManifest(b []byte) (*Manifest, error) {
	p := scanner{rest: b}
	if magic := p.take(4); string(magic) != manifestMagic {
		p.fail("magic %q", magic)
	}
	v := p.u16()
	if p.err == nil && v != version && v != manifestVersion {
		return nil, fmt.Errorf("parse manifest: version %d: %w", v, tidegate.ErrUnsupported)
	}
	if f := p.u16(); f != 0 {
		p.fail("reserved bits %04x are set", f)
	}
	m := &Manifest{}
	copy(m.Stream[:], p.take(16))
	m.Generation, m.Opened, m.Taken = tidegate.Generation(p.u32()), tidegate.Epoch(p.u64()), int64(p.u64())
	m.Start, m.End = tidegate.Position(p.u64()), tidegate.Position(p.u64())
	m.Lineage = tidegate.Lineage(p.text(lineageBytesMax))
	before := ""
	for i := range p.count(AttrsMax) {
		k := p.text(AttrBytesMax)
		if i > 0 && k <= before {
			p.fail("attribute %q behind %q", k, before)
		}
		if m.Attrs == nil {
			m.Attrs = map[string]string{}
		}
		before, m.Attrs[k] = k, p.text(AttrBytesMax)
	}
	for range p.count(filesMax) {
		if p.err != nil {
			break
		}
		f := File{Path: p.text(pathBytesMax), Kind: Kind(p.u8()), Mode: p.u32(), Size: int64(p.u64()), ModTime: int64(p.u64()), Link: p.text(pathBytesMax)}
		var names []Name
		var cuts []int
		if f.Kind == KindStream && p.err == nil {
			names, cuts = p.stream()
		}
		if f.Kind == KindFile && f.Size > 0 && p.err == nil {
			if f.Size > int64(len(p.rest))/32*ExtentBytes {
				p.fail("%s: %d bytes and no room for their names", f.Path, f.Size)
				break
			}
			names = make([]Name, extentsOf(f.Size))
			for i := range names {
				copy(names[i][:], p.take(32))
			}
		}
		m.Files, m.Extents, m.Cuts = append(m.Files, f), append(m.Extents, names), append(m.Cuts, cuts)
	}
	if p.err == nil && len(p.rest) > 0 {
		p.fail("%d bytes behind its end", len(p.rest))
	}
	if p.err == nil {
		if err := m.check(); err != nil {
			p.fail("%v", err)
		}
		if m.streams() != (v == manifestVersion) {
			p.fail("is of version %d", v) // one state has one manifest
		}
	}
	if p.err != nil {
		return nil, fmt.Errorf("parse manifest: %w", p.err)
	}
	return m, nil
}

// check verifies the invariants.
func (m *Manifest) check() error {
	switch {
	case m.Stream.IsZero():
		return errors.New("stream id is zero")
	case m.Generation == 0:
		return errors.New("generation is zero")
	case m.End < m.Start:
		return fmt.Errorf("needs its log from %s to %s", m.Start, m.End)
	case len(m.Lineage) > lineageBytesMax || len(m.Attrs) > AttrsMax || len(m.Files) > filesMax:
		return fmt.Errorf("lineage of %d bytes, %d attributes, %d files: too much", len(m.Lineage), len(m.Attrs), len(m.Files))
	case len(m.Extents) != len(m.Files):
		return fmt.Errorf("%d files, %d lists of extents", len(m.Files), len(m.Extents))
	}
	for k, v := range m.Attrs {
		if len(k) > AttrBytesMax || len(v) > AttrBytesMax {
			return fmt.Errorf("attribute %.32q of %d bytes: want at most %d", k, len(v), AttrBytesMax)
		}
	}
	kinds := make(map[string]Kind, len(m.Files))
	for i := range m.Files {
		f := &m.Files[i]
		if err := f.check(); err != nil {
			return err
		}
		if kinds[f.Path] != 0 {
			return fmt.Errorf("%s is there twice", f.Path)
		}
		if f.Kind == KindStream {
			if err := m.checkCuts(i); err != nil {
				return err
			}
		} else if want := extentsOf(f.Size); len(m.Extents[i]) != want {
			return fmt.Errorf("%s has %d bytes and %d extents", f.Path, f.Size, len(m.Extents[i]))
		}
		kinds[f.Path] = f.Kind
	}
	// Written through a link, or below a file, bytes would land elsewhere.
	for p := range kinds {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if k := kinds[dir]; k != 0 && k != KindDir {
				return fmt.Errorf("%s lies below %s, which is no directory", p, dir)
			}
		}
	}
	return nil
}

// checkCuts verifies the lengths of a stream's extents.
func (m *Manifest) checkCuts(i int) error {
	f := &m.Files[i]
	if len(m.Cuts) != len(m.Files) || len(m.Cuts[i]) != len(m.Extents[i]) {
		return fmt.Errorf("%s has %d extents, and not as many lengths", f.Path, len(m.Extents[i]))
	}
	sum := int64(0)
	for _, n := range m.Cuts[i] {
		if n < 1 || n > ExtentBytes {
			return fmt.Errorf("%s has an extent of %d bytes: want 1 to %d", f.Path, n, ExtentBytes)
		}
		sum += int64(n)
	}
	if sum != f.Size {
		return fmt.Errorf("%s has %d bytes, and its extents %d", f.Path, f.Size, sum)
	}
	return nil
}

// filled reports whether the entry has content.
func (f *File) filled() bool { return f.Kind == KindFile || f.Kind == KindStream }

func (f *File) check() error {
	switch {
	case f.Path == "" || f.Path == "." || len(f.Path) > pathBytesMax || path.Clean(f.Path) != f.Path || path.IsAbs(f.Path) ||
		f.Path == ".." || strings.HasPrefix(f.Path, "../") || strings.ContainsRune(f.Path, 0):
		return fmt.Errorf("path %.64q: want a clean one inside the base", f.Path)
	case f.Kind < KindFile || f.Kind > KindStream:
		return fmt.Errorf("%s is of kind %d", f.Path, f.Kind)
	case f.Mode > 0o7777:
		return fmt.Errorf("%s has mode %o", f.Path, f.Mode)
	case f.Size < 0 || !f.filled() && f.Size != 0:
		return fmt.Errorf("%s has %d bytes", f.Path, f.Size)
	case (f.Kind == KindLink) != (f.Link != "") || len(f.Link) > pathBytesMax || strings.ContainsRune(f.Link, 0):
		return fmt.Errorf("%s links to %.64q", f.Path, f.Link)
	}
	return nil
}

// ParseName parses the text form of a Name.
func ParseName(s string) (n Name, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(n) || strings.ToLower(s) != s {
		return Name{}, fmt.Errorf("parse name %.80q: want %d lower-case hex digits", s, 2*len(n))
	}
	copy(n[:], b)
	return n, nil
}

// scanner takes a manifest apart; the first mistake sticks.
type scanner struct {
	rest []byte
	err  error
}

func (p *scanner) fail(format string, args ...any) {
	if p.err == nil {
		p.err = &tidegate.CorruptError{Path: "manifest", Offset: -1, What: fmt.Sprintf(format, args...)}
	}
	p.rest = nil
}

// take returns the next n bytes; zeros after a mistake, so that nobody asks.
func (p *scanner) take(n int) []byte {
	if p.err == nil && len(p.rest) < n {
		p.fail("is cut")
	}
	if p.err != nil {
		return make([]byte, min(n, 32))
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *scanner) u8() uint8   { return p.take(1)[0] }
func (p *scanner) u16() uint16 { return le.Uint16(p.take(2)) }
func (p *scanner) u32() uint32 { return le.Uint32(p.take(4)) }
func (p *scanner) u64() uint64 { return le.Uint64(p.take(8)) }

// stream takes the names and the lengths of a stream's extents.
func (p *scanner) stream() (names []Name, cuts []int) {
	n := p.count(len(p.rest) / (len(Name{}) + 4))
	if n == 0 {
		return nil, nil
	}
	names, cuts = make([]Name, n), make([]int, n)
	for i := range names {
		copy(names[i][:], p.take(len(Name{})))
		cuts[i] = int(p.u32())
	}
	return names, cuts
}

func (p *scanner) count(limit int) int {
	n := int(p.u32())
	if n > limit {
		p.fail("%d entries, limit is %d", n, limit)
	}
	if p.err != nil {
		return 0
	}
	return n
}

func (p *scanner) text(limit int) string {
	n := int(p.u32())
	if n > limit {
		p.fail("text of %d bytes, limit is %d", n, limit)
	}
	if p.err != nil {
		return ""
	}
	return string(p.take(n))
}
