package wal

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/tidegate/tidegate"
)

// LSN is the address of a byte in the write-ahead log. 0 is "none": no record
// lies before the first segment. As a tidegate.Position it has the same value.
type LSN uint64

// PageSize is the size of a page of the log in bytes (XLOG_BLCKSZ). A server
// built with another one is refused.
const PageSize = 8192

// recordAlign is the alignment of a record's start (MAXALIGN on every 64-bit machine).
const recordAlign = 8

// String returns PostgreSQL's own form: two hexadecimal numbers, "16/B374D848".
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// Position returns the same place in the vocabulary of streams.
func (l LSN) Position() tidegate.Position { return tidegate.Position(l) }

// MarshalText returns String's form.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is [ParseLSN].
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// PageStart returns the start of the page that holds l.
func (l LSN) PageStart() LSN { return l &^ (PageSize - 1) }

// ParseLSN reads "16/B374D848": one to eight hexadecimal digits of either case on
// both sides, for servers differ in padding.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if !ok || !isHex(high) || !isHex(low) {
		return 0, fmt.Errorf("parse lsn %q: want two hexadecimal numbers, as in 16/B374D848", s)
	}
	h, errHigh := strconv.ParseUint(high, 16, 32)
	lo, errLow := strconv.ParseUint(low, 16, 32)
	if errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("parse lsn %q: want at most eight digits a side", s)
	}
	return LSN(h<<32 | lo), nil
}

func isHex(s string) bool {
	return s != "" && len(s) <= 8 && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}
