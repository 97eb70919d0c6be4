package seglog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/internal/vfs"
)

const (
	segmentMagic   = "TGS1"
	segmentVersion = 1
	segmentSuffix  = ".seg"

	// Offsets in the segment header; docs/formats/deltalog.md has the table.
	offVersion     = 4
	offFormatMagic = 8
	offFirst       = 16
	offOffset      = 24
	offState       = 32
	offCRC         = 60
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// segmentHeader starts every segment file. It derives from the records before
// the segment alone, so that equal logs have equal files.
type segmentHeader struct {
	format [4]byte
	first  uint64 // index of the first record
	offset int64  // record bytes before this segment
	state  State  // before the first record
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, HeaderSize)
	copy(b, segmentMagic)
	le.PutUint16(b[offVersion:], segmentVersion)
	copy(b[offFormatMagic:], h.format[:])
	le.PutUint64(b[offFirst:], h.first)
	le.PutUint64(b[offOffset:], uint64(h.offset))
	copy(b[offState:], h.state[:])
	le.PutUint32(b[offCRC:], crc32.Checksum(b[:offCRC], castagnoli))
	return b
}

// decodeSegmentHeader says in words what is wrong, for the caller to put the
// path to it, or returns tidegate.ErrUnsupported in the tree.
func decodeSegmentHeader(b []byte, format [4]byte) (segmentHeader, error) {
	var h segmentHeader
	if len(b) < HeaderSize {
		return h, fmt.Errorf("segment header is cut: %d of %d bytes", len(b), HeaderSize)
	}
	if string(b[:len(segmentMagic)]) != segmentMagic {
		return h, fmt.Errorf("segment magic is %q, want %q", b[:len(segmentMagic)], segmentMagic)
	}
	want := le.Uint32(b[offCRC:])
	if got := crc32.Checksum(b[:offCRC], castagnoli); got != want {
		return h, fmt.Errorf("segment header checksum mismatch (want %08x, got %08x)", want, got)
	}
	if v := le.Uint16(b[offVersion:]); v != segmentVersion {
		return h, fmt.Errorf("segment version %d: %w", v, tidegate.ErrUnsupported)
	}
	copy(h.format[:], b[offFormatMagic:])
	h.first = le.Uint64(b[offFirst:])
	h.offset = int64(le.Uint64(b[offOffset:]))
	copy(h.state[:], b[offState:])
	if h.format != format {
		return h, fmt.Errorf("segment holds records of format %q, want %q", h.format[:], format[:])
	}
	if h.offset < 0 {
		return h, fmt.Errorf("segment offset %d is negative", h.offset)
	}
	return h, nil
}

// readSegmentHeader reads and checks the header of an open segment file whose
// name says that it starts at first. Damage is a *tidegate.CorruptError.
func readSegmentHeader(f vfs.File, format Format, first uint64) (segmentHeader, error) {
	b := make([]byte, HeaderSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return segmentHeader{}, err
	}
	h, err := decodeSegmentHeader(b[:n], format.Magic())
	if errors.Is(err, tidegate.ErrUnsupported) {
		return h, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if err == nil && h.first != first {
		err = fmt.Errorf("segment header says index %016x, the file's name %016x", h.first, first)
	}
	if err != nil {
		return h, &tidegate.CorruptError{Path: f.Name(), Offset: 0, What: err.Error()}
	}
	return h, nil
}

func segmentPath(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", first, segmentSuffix))
}

// listSegments returns the first indexes of the segment files in dir,
// ascending. Other files are none of its business; a name that pretends to be a
// segment's is an error.
func listSegments(fsys vfs.FS, dir string) ([]uint64, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, name := range names { // sorted, and fixed-width hex sorts as the numbers do
		digits, ok := strings.CutSuffix(name, segmentSuffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(digits, 16, 64)
		path := segmentPath(dir, first)
		if err != nil || filepath.Base(path) != name {
			return nil, &tidegate.CorruptError{Path: filepath.Join(dir, name), Offset: -1, What: "not the name of a segment"}
		}
		firsts = append(firsts, first)
	}
	return firsts, nil
}

// parseRecord parses the record at the start of b and checks what the package
// relies on, whatever the format's own diligence.
func parseRecord(format Format, b []byte, at uint64) (Record, error) {
	n := format.HeaderLen()
	if len(b) < n {
		return Record{}, fmt.Errorf("record header is cut: %d of %d bytes", len(b), n)
	}
	rec, err := format.Parse(b[:n:n], at)
	if err != nil {
		return Record{}, err
	}
	if rec.Len < n || rec.Next <= at {
		return Record{}, fmt.Errorf("record of %d bytes at index %d claims to end at %d", rec.Len, at, rec.Next)
	}
	return rec, nil
}

// corruptAt is the error for an unreadable record of a file. An error that says
// unsupported stays that: the bytes are somebody's, only not ours to read.
func corruptAt(path string, offset int64, err error) error {
	if errors.Is(err, tidegate.ErrUnsupported) {
		return fmt.Errorf("%s: record at %d: %w", path, offset, err)
	}
	what := err.Error()
	var inner *tidegate.CorruptError
	if errors.As(err, &inner) {
		what = inner.What
	}
	return &tidegate.CorruptError{Path: path, Offset: offset, What: what}
}
