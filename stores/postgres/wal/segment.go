package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// SegmentSize is the size of a segment file in bytes: a power of two, 1 MiB to
// 1 GiB, fixed when the cluster is made (`SHOW wal_segment_size`).
type SegmentSize uint64

// Bounds of SegmentSize, and what initdb takes.
const (
	SegmentSizeMin     SegmentSize = 1 << 20
	SegmentSizeMax     SegmentSize = 1 << 30
	SegmentSizeDefault SegmentSize = 16 << 20
)

// Validate reports a size that no server has.
func (s SegmentSize) Validate() error {
	if s < SegmentSizeMin || s > SegmentSizeMax || s&(s-1) != 0 {
		return fmt.Errorf("segment size %d: want a power of two from %d to %d", uint64(s), uint64(SegmentSizeMin), uint64(SegmentSizeMax))
	}
	return nil
}

// ParseSegmentSize reads what SHOW wal_segment_size answers: "16MB", "1GB".
func ParseSegmentSize(s string) (SegmentSize, error) {
	number, unit := strings.TrimRight(s, "kMGTB"), strings.TrimLeft(s, "0123456789")
	shift, known := map[string]uint{"B": 0, "kB": 10, "MB": 20, "GB": 30}[unit]
	n, err := strconv.ParseUint(number, 10, 32)
	if !known || err != nil {
		return 0, fmt.Errorf("parse segment size %q: want a number and B, kB, MB or GB", s)
	}
	size := SegmentSize(n << shift)
	return size, size.Validate()
}

// Start returns the start of the segment that holds l.
func (s SegmentSize) Start(l LSN) LSN { return l &^ LSN(s-1) }

// End returns the first start of a segment at or after l: l itself where a
// segment starts.
func (s SegmentSize) End(l LSN) LSN { return (l + LSN(s) - 1) &^ LSN(s-1) }

// Offset returns where in its segment file l is.
func (s SegmentSize) Offset(l LSN) int64 { return int64(l & LSN(s-1)) }

// FileName returns the name of the segment file of t that holds l:
// "000000010000001600000B37".
func (s SegmentSize) FileName(t Timeline, l LSN) string {
	n, perID := uint64(l)/uint64(s), uint64(1)<<32/uint64(s)
	return fmt.Sprintf("%08X%08X%08X", uint32(t), n/perID, n%perID)
}

// ParseFileName takes a segment file's name apart: its timeline and the LSN at
// which it starts. Names with a suffix (.partial, .history, .backup) are refused.
func (s SegmentSize) ParseFileName(name string) (Timeline, LSN, error) {
	const digits = "0123456789ABCDEF"
	if len(name) != 24 || strings.Trim(name, digits) != "" {
		return 0, 0, fmt.Errorf("parse segment name %q: want 24 upper-case hexadecimal digits", name)
	}
	part := func(i int) uint64 {
		n, _ := strconv.ParseUint(name[i:i+8], 16, 32) // eight digits, as checked
		return n
	}
	perID := uint64(1) << 32 / uint64(s)
	if part(16) >= perID || part(0) == 0 {
		return 0, 0, fmt.Errorf("parse segment name %q: no such segment with segments of %d bytes", name, uint64(s))
	}
	return Timeline(part(0)), LSN((part(8)*perID + part(16)) * uint64(s)), nil
}

// SafeCut returns where a message that begins at from may end, at most max bytes
// on, when end is a record end and committed: end itself, or else the last page
// boundary before. PostgreSQL's walreceiver takes the rest of a page to be there
// once a record's head is (walsender.c, XLogSendPhysical), so a message never ends
// in mid-record but at a page boundary. max below two pages counts as two. It
// returns from when from is not before end.
func SafeCut(from, end LSN, maxBytes int) LSN {
	if from >= end {
		return from
	}
	if uint64(end-from) <= uint64(max(maxBytes, 2*PageSize)) {
		return end
	}
	return (from + LSN(max(maxBytes, 2*PageSize))).PageStart()
}
