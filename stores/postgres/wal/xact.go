package wal

import "encoding/binary"

// Operations of rmXact (xact.h): the low bit of the mask's complement says that
// flags follow the time.
const (
	xactCommit         = 0x00
	xactPrepare        = 0x10
	xactAbort          = 0x20
	xactCommitPrepared = 0x30
	xactAbortPrepared  = 0x40
	xactMask           = 0x70
	xactHasFlags       = 0x80
)

// Parts of a commit or abort record, in the order in which they follow its flags.
const (
	xactDatabase   = 1 << 0 // two ids
	xactChildren   = 1 << 1 // a count and so many ids
	xactRelations  = 1 << 2 // a count and so many of 12 bytes
	xactStats      = 1 << 8 // a count and so many of 12 bytes, since 18 of 16
	xactInvalidate = 1 << 3 // a count and so many of 16 bytes
	xactTwoPhase   = 1 << 4 // the prepared transaction's id
)

// transaction fills in e for an operation of rmXact. It is false when data is too
// short for what it says to hold.
func (e *Event) transaction(body, data []byte, v Version) bool {
	e.XID = binary.LittleEndian.Uint32(body[4:])
	switch body[16] & xactMask {
	case xactCommit:
		e.Kind = Commit
	case xactAbort:
		e.Kind = Abort
	case xactCommitPrepared:
		e.Kind, e.Prepared = Commit, true
	case xactAbortPrepared:
		e.Kind, e.Prepared = Abort, true
	case xactPrepare:
		return e.prepare(data)
	default:
		return true
	}
	if len(data) < 8 {
		return false
	}
	e.Time = unixNano(int64(binary.LittleEndian.Uint64(data)))
	if body[16]&xactHasFlags == 0 {
		return !e.Prepared // a prepared one's id is among the parts
	}
	return e.parts(data[8:], v)
}

// prepare reads the head of a prepared transaction's state (TwoPhaseFileHeader).
func (e *Event) prepare(data []byte) bool {
	if len(data) < 32 {
		return false
	}
	e.Kind = Prepare
	e.XID = binary.LittleEndian.Uint32(data[8:])
	e.Time = unixNano(int64(binary.LittleEndian.Uint64(data[16:])))
	e.Children = binary.LittleEndian.Uint32(data[28:])
	return true
}

// parts walks over the parts that b's flags name, as far as the last one wanted.
func (e *Event) parts(b []byte, v Version) bool {
	if len(b) < 4 {
		return false
	}
	flags := binary.LittleEndian.Uint32(b)
	b = b[4:]
	if flags&xactDatabase != 0 {
		if len(b) < 8 {
			return false
		}
		b = b[8:]
	}
	var ok bool
	if flags&xactChildren != 0 {
		if len(b) < 4 {
			return false
		}
		e.Children = binary.LittleEndian.Uint32(b)
		if b, ok = skipList(b, 4); !ok {
			return false
		}
	}
	if !e.Prepared {
		return true
	}
	statsBytes := 12
	if v >= 18 {
		statsBytes = 16
	}
	for _, list := range []struct{ flag, size int }{{xactRelations, 12}, {xactStats, statsBytes}, {xactInvalidate, 16}} {
		if flags&uint32(list.flag) != 0 {
			if b, ok = skipList(b, list.size); !ok {
				return false
			}
		}
	}
	if flags&xactTwoPhase == 0 || len(b) < 4 {
		return false
	}
	e.XID = binary.LittleEndian.Uint32(b)
	return true
}

// skipList skips a count and so many entries of a size.
func skipList(b []byte, size int) ([]byte, bool) {
	if len(b) < 4 {
		return nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b)) * uint64(size)
	if n > uint64(len(b)-4) {
		return nil, false
	}
	return b[4+n:], true
}
