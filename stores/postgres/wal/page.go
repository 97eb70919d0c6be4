package wal

import (
	"bytes"
	"encoding/binary"
)

// Flags of a page header (xlp_info).
const (
	pageContinues  = 0x1 // the page begins with the rest of a record
	pageLong       = 0x2 // a segment's first page: identifies the file
	pageBackupFree = 0x4 // of no meaning to a reader
	pageOverwrites = 0x8 // the record that the page before left unfinished is void
	pageFlags      = 0xF
)

// takeHeader adds to the header of the page that next is on, and reads it once it
// is whole.
func (p *Parser) takeHeader(b []byte) (int, error) {
	addr := p.next.PageStart()
	size := p.headerSize(addr)
	n := copy(p.header[p.headerLen:size], b)
	p.headerLen += n
	p.next += LSN(n)
	if p.headerLen < size {
		return n, nil
	}
	p.headerLen = 0
	if p.first == 0 && p.foreign == 0 && size == pageHeaderShort && !p.plausible(addr) {
		return n, nil // padding, as it seems: the next page, or at last the next segment, will tell
	}
	return n, p.readHeader(p.header[:size], addr)
}

// plausible reports whether header can be that of a page of this log at addr, for a
// parser that has no page yet. A release that is known is, so that it is named.
func (p *Parser) plausible(addr LSN) bool {
	_, _, known := versionOf(binary.LittleEndian.Uint16(p.header[:]))
	return known && LSN(binary.LittleEndian.Uint64(p.header[8:])) == addr
}

func (p *Parser) readHeader(h []byte, addr LSN) error {
	if err := p.checkPlace(h, addr); err != nil {
		return err
	}
	if len(h) == pageHeaderLong {
		if err := p.checkSegment(h, addr); err != nil {
			return err
		}
	}
	tli := Timeline(binary.LittleEndian.Uint32(h[4:]))
	if want := p.timelineAt(addr); want != 0 && tli != want {
		return p.fault(FaultTimeline, addr, "page is of timeline %s: want %s", tli, want)
	}
	if tli < p.tli || tli == 0 {
		return p.fault(FaultTimeline, addr, "page is of timeline %s, after timeline %s", tli, p.tli)
	}
	p.tli = tli
	return p.continues(binary.LittleEndian.Uint16(h[2:]), binary.LittleEndian.Uint32(h[16:]), addr)
}

func (p *Parser) timelineAt(addr LSN) Timeline {
	if p.cfg.Lineage.System == 0 {
		return 0
	}
	return p.cfg.Lineage.TimelineAt(addr)
}

// checkPlace checks that h is the header of a page of one of our releases, of this
// kind and at this place.
func (p *Parser) checkPlace(h []byte, addr LSN) error {
	magic, info := binary.LittleEndian.Uint16(h), binary.LittleEndian.Uint16(h[2:])
	if bytes.Count(h, []byte{0}) == len(h) {
		return p.fault(FaultEnd, addr, "zeros where a page must begin")
	}
	version, supported, known := versionOf(magic)
	switch {
	case !known:
		return p.fault(FaultPage, addr, "page begins with %04X: not a page of a log, or of a release that is not known", magic)
	case !supported:
		return p.fault(FaultVersion, addr, "page is of PostgreSQL %d (%04X)", version, magic)
	case p.magic != 0 && p.magic != magic:
		expected, _, _ := versionOf(p.magic)
		return p.fault(FaultVersion, addr, "page is of PostgreSQL %d (%04X): want %d (%04X)", version, magic, expected, p.magic)
	}
	switch at := LSN(binary.LittleEndian.Uint64(h[8:])); {
	case at < addr:
		return p.fault(FaultEnd, addr, "an older page, %s, where the next must begin", at)
	case at > addr:
		return p.fault(FaultPage, addr, "page says that it is %s", at)
	case info&^uint16(pageFlags) != 0:
		return p.fault(FaultPage, addr, "page has unknown flags %04X", info)
	case (info&pageLong != 0) != (len(h) == pageHeaderLong):
		return p.fault(FaultSystem, addr, "page header is long in the middle of a segment, or short at its start: want segments of %d bytes", uint64(p.cfg.SegmentSize))
	}
	p.magic = magic
	return nil
}

// checkSegment checks what a segment's first page says about its file.
func (p *Parser) checkSegment(h []byte, addr LSN) error {
	system, segment, page := binary.LittleEndian.Uint64(h[24:]), binary.LittleEndian.Uint32(h[32:]), binary.LittleEndian.Uint32(h[36:])
	for _, want := range []uint64{p.cfg.System, p.cfg.Lineage.System} {
		if want != 0 && want != system {
			return p.fault(FaultSystem, addr, "segment is of system %d: want %d", system, want)
		}
	}
	if SegmentSize(segment) != p.cfg.SegmentSize || page != PageSize {
		return p.fault(FaultSystem, addr, "segment has %d bytes in pages of %d: want %d in pages of %d", segment, page, uint64(p.cfg.SegmentSize), PageSize)
	}
	return nil
}

// continues compares what a page says about the record that crosses into it with
// what is there of it.
func (p *Parser) continues(info uint16, left uint32, addr LSN) error {
	r := &p.piece
	searching := p.first == 0 && p.foreign == 0
	switch {
	case info&(pageContinues|pageOverwrites) == pageContinues|pageOverwrites:
		return p.fault(FaultPage, addr, "page continues a record and voids it")
	case info&pageOverwrites != 0:
		if r.got == 0 && p.foreign == 0 && !searching {
			return p.fault(FaultPage, addr, "page voids a record, but none is unfinished")
		}
		if r.got > 0 {
			p.torn = r.start
		}
		r.got, p.foreign, p.overwrite = 0, 0, true
		if p.first == 0 {
			p.first, p.end = addr, addr
		}
		return nil
	case info&pageContinues == 0:
		if r.got > 0 || p.foreign > 0 {
			return p.fault(FaultPage, addr, "record %s is not continued", r.start)
		}
		if searching {
			p.first, p.end = addr, addr
		}
		return nil
	case left == 0 || left > recordBytesMax:
		return p.fault(FaultPage, addr, "page continues a record with %d bytes", left)
	case searching:
		p.foreign = uint64(alignSize(left))
		return nil
	case p.foreign > 0 && p.foreign == uint64(alignSize(left)), r.got > 0 && r.size-r.got == left:
		return nil
	case r.got == 0 && p.foreign == 0:
		return p.fault(FaultPage, addr, "page continues a record, but none is unfinished")
	}
	return p.fault(FaultPage, addr, "page continues record %s with %d bytes: want %d", r.start, left, max(uint64(r.size-r.got), p.foreign))
}
