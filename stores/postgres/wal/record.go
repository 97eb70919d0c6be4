package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

var errNoRecordEnd = errors.New("no record can end there")

// Resource managers whose records are told, and how many are built in; numbers
// from rmCustom on are extensions' (rmgrlist.h, rmgr.h).
const (
	rmXLog    = 0
	rmXact    = 1
	rmBuiltIn = 22
	rmCustom  = 128
)

// Operations of rmXLog: xl_info without the bits that are every record's (pg_control.h).
const (
	xlogShutdown   = 0x00
	xlogCheckpoint = 0x10
	xlogSwitch     = 0x40
	xlogSettings   = 0x60
	xlogRecovered  = 0x90
	xlogOverwrite  = 0xD0
	xlogMask       = 0xF0
)

// checkSize checks a record's first field as soon as it is there: zeros are found
// without waiting for more of them.
func (p *Parser) checkSize(size uint32, start LSN) error {
	switch {
	case size == 0:
		return p.fault(FaultEnd, start, "zeros where a record must begin")
	case size < recordHeader || size > recordBytesMax:
		return p.fault(FaultRecord, start, "record is %d bytes long: want %d to %d", size, recordHeader, recordBytesMax)
	}
	return nil
}

// checkHeader checks a record's header before its length is trusted.
func (p *Parser) checkHeader(h []byte, start LSN) error {
	prev, rm := LSN(binary.LittleEndian.Uint64(h[8:])), h[17]
	switch {
	case rm >= rmBuiltIn && rm < rmCustom:
		return p.fault(FaultRecord, start, "record is of resource manager %d: no such", rm)
	case p.last != 0 && prev != p.last:
		return p.fault(FaultLink, start, "record follows %s: want %s", prev, p.last)
	case p.last == 0 && prev >= start:
		return p.fault(FaultLink, start, "record follows %s, which is not before it", prev)
	}
	return nil
}

// finish takes a record that is there from start to end. body is all of it, or for
// one in pieces that is not a transaction's its first headBytes; crc is that of
// what follows its header.
func (p *Parser) finish(body []byte, start, end LSN, crc uint32) error {
	want := binary.LittleEndian.Uint32(body[20:])
	if got := crc32.Update(crc, castagnoli, body[:20]); got != want {
		return p.fault(FaultChecksum, start, "record of %d bytes: checksum mismatch (want %08x, got %08x)", binary.LittleEndian.Uint32(body), want, got)
	}
	if p.overwrite && (body[17] != rmXLog || body[16]&xlogMask != xlogOverwrite) {
		return p.fault(FaultRecord, start, "record does not void %s, as its page says", p.torn)
	}
	p.last, p.next, p.end = start, end, end
	p.tally.Records++
	if body[17] <= rmXact {
		return p.decode(body, start)
	}
	return nil
}

// decode tells the event of a record of rmXLog or rmXact, if it is one.
func (p *Parser) decode(body []byte, start LSN) error {
	data, ok := mainData(body)
	if !ok {
		return p.fault(FaultRecord, start, "record has no main data")
	}
	e, torn := Event{Start: start, End: p.end}, p.torn
	if body[17] == rmXact {
		ok = e.transaction(body, data, p.Version())
	} else {
		ok = p.control(&e, body[16]&xlogMask, data)
	}
	if !ok {
		return p.fault(FaultRecord, start, "record of manager %d, operation %02X: %d bytes of main data are too few", body[17], body[16], len(data))
	}
	if e.Kind == 0 {
		return nil
	}
	if e.Kind == Overwrite && torn != 0 && e.Torn != torn {
		return p.fault(FaultLink, start, "record voids %s: want %s", e.Torn, torn)
	}
	p.tally.Add(&e)
	if p.cfg.Event != nil {
		p.cfg.Event(e)
	}
	return nil
}

// mainData finds a record's main data behind the heads of its parts
// (xlogrecord.h, DecodeXLogRecord). ok is false when the heads end too early, or
// there are block references, which no record that is told has; then data is nil.
func mainData(body []byte) (data []byte, ok bool) {
	b := body[recordHeader:]
	for len(b) > 0 {
		switch b[0] {
		case 255: // length in one byte
			if len(b) < 2 {
				return nil, false
			}
			return b[2:], true
		case 254: // in four
			if len(b) < 5 {
				return nil, false
			}
			return b[5:], true
		case 253: // replication origin
			b = b[min(3, len(b)):]
		case 252: // top-level transaction
			b = b[min(5, len(b)):]
		default: // a block reference: page images are rmXLog's, and are not told
			return nil, true
		}
	}
	return nil, true
}

// control fills in e for an operation of rmXLog. It is false when data is too short.
func (p *Parser) control(e *Event, op byte, data []byte) bool {
	var need int
	switch op {
	case xlogSwitch:
	case xlogShutdown, xlogCheckpoint, xlogRecovered, xlogOverwrite:
		need = 16
	case xlogSettings:
		need = 26
	default:
		return true
	}
	if len(data) < need {
		return false
	}
	u32 := binary.LittleEndian.Uint32
	switch op {
	case xlogSwitch:
		e.Kind = SegmentSwitch
		if end := p.cfg.SegmentSize.End(p.end); end > p.end {
			p.pad = end
		}
	case xlogShutdown, xlogCheckpoint:
		e.Kind = Checkpoint
		if op == xlogShutdown {
			e.Kind = Shutdown
		}
		e.Redo = LSN(binary.LittleEndian.Uint64(data))
		e.Timeline, e.Previous = Timeline(u32(data[8:])), Timeline(u32(data[12:]))
	case xlogRecovered:
		e.Kind = Recovered
		e.Time = unixNano(int64(binary.LittleEndian.Uint64(data)))
		e.Timeline, e.Previous = Timeline(u32(data[8:])), Timeline(u32(data[12:]))
	case xlogOverwrite:
		e.Kind, e.Torn = Overwrite, LSN(binary.LittleEndian.Uint64(data))
		e.Time = unixNano(int64(binary.LittleEndian.Uint64(data[8:])))
		p.overwrite, p.torn = false, 0
	case xlogSettings:
		e.Kind, e.Settings = Settings, limits(data)
	}
	return true
}

func limits(data []byte) Limits {
	i32 := func(i int) int32 { return int32(binary.LittleEndian.Uint32(data[4*i:])) }
	return Limits{
		MaxConnections: i32(0), MaxWorkerProcesses: i32(1), MaxWalSenders: i32(2), MaxPreparedXacts: i32(3), MaxLocksPerXact: i32(4),
		WalLevel: i32(5), WalLogHints: data[24] != 0, TrackCommitTimestamps: data[25] != 0,
	}
}
