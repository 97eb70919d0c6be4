package wal

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/tidegate/tidegate"
)

// Sizes of the log's headers, and bounds of a record, in bytes
// (xlog_internal.h, xlogrecord.h).
const (
	pageHeaderShort = 24
	pageHeaderLong  = 40 // at a segment's start
	recordHeader    = 24
	recordBytesMax  = 1 << 30
)

// headBytes is how much of a record in pieces is always kept: more than any event
// but a transaction's end needs.
const headBytes = 96

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Config tells a Parser what log to expect.
type Config struct {
	SegmentSize SegmentSize // asked of the server
	Version     Version     // 0: that of the first page
	System      uint64      // 0: any
	Lineage     Lineage     // zero: any timelines that do not go back

	// Event is told of every [Event], in the order of the log, by Push and before it
	// returns. It must not call the parser. Nil: nobody is told.
	Event func(Event)
}

// Parser reads a log that is pushed to it in pieces of any size. The first fault
// stops it: every later Push returns the same error, until Begin or Resume.
//
// Invariants: First <= End <= Next; no byte at or beyond End belongs to a record
// that was told; [First, End) is whole records, and padding.
type Parser struct {
	cfg   Config
	magic uint16 // 0 until the first page is known
	err   error

	next  LSN // of the next byte to be pushed
	first LSN // where the first record may begin; 0 until that is known
	end   LSN
	last  LSN // start of the newest record, which the next one must name; 0: not known
	pad   LSN // end of the padding that next is in; 0: in none
	tli   Timeline
	tally Tally

	header    [pageHeaderLong]byte // of the page, as far as it has come
	headerLen int
	foreign   uint64 // bytes that are left of a record that began before Begin
	overwrite bool   // the next record must void the one at torn
	torn      LSN
	piece     piece
}

// piece is a record that is not whole yet, or lies on several pages.
type piece struct {
	start LSN
	size  uint32 // 0 until known; got counts on to its multiple of 8
	got   uint32
	crc   uint32 // of what came behind the header
	head  [headBytes]byte
	kept  []byte // all of it, if somebody reads the whole record
	keep  bool
}

// Mark is a place to go on from, with another Parser.
type Mark struct {
	End     LSN // a record end
	Last    LSN // start of the record that ends there; 0: not known, so that the first link is not checked
	Padding LSN // end of the padding that End is in; 0: in none
}

// NewParser makes a parser; give it a place by Begin or Resume.
func NewParser(cfg Config) (*Parser, error) {
	err := cfg.SegmentSize.Validate()
	if err == nil && cfg.Version != 0 {
		err = cfg.Version.Validate()
	}
	if err == nil && cfg.Lineage.System != 0 {
		err = cfg.Lineage.validate()
	}
	if err != nil {
		return nil, &tidegate.Error{Op: "read wal", Class: tidegate.Permanent, Err: err}
	}
	p := &Parser{cfg: cfg}
	p.Begin(0)
	return p, nil
}

func (p *Parser) reset(at LSN) {
	kept := p.piece.kept[:0]
	*p = Parser{cfg: p.cfg, magic: p.cfg.Version.Magic(), next: at}
	p.piece.kept = kept
}

// Begin takes the log from at, which may be anywhere, in mid-record and in
// padding. The parser looks for the first record: on the page that begins at at,
// or else on the next page. What lies before First is skipped, not judged, and
// in the middle of a segment so are pages that are no log, for they may be padding.
func (p *Parser) Begin(at LSN) { p.reset(at) }

// Resume takes the log from a record end. The error, of class misuse, says that
// m.End cannot be one.
func (p *Parser) Resume(m Mark) error {
	if off := m.End % PageSize; m.End == 0 || m.End%recordAlign != 0 || off > 0 && off < LSN(p.headerSize(m.End)) {
		return &tidegate.Error{Op: "resume wal", Subject: m.End.String(), Class: tidegate.Misuse, Err: errNoRecordEnd}
	}
	p.reset(m.End)
	p.first, p.end, p.last = m.End, m.End, m.Last
	if m.Padding > m.End {
		p.pad = m.Padding
	}
	return nil
}

// Next returns the LSN of the byte that must be pushed next.
func (p *Parser) Next() LSN { return p.next }

// First returns where the first record that was looked for begins, which is a
// record end; 0 while it is not found.
func (p *Parser) First() LSN { return p.first }

// End returns the last record end; 0 until First is known. In padding it moves on
// from page to page, and the bytes before it mean nothing more.
func (p *Parser) End() LSN { return p.end }

// Padding returns the end of the padding that End is in. A server that has
// replayed to End is at this place, and forks there; 0 outside of padding.
func (p *Parser) Padding() LSN { return p.pad }

// Last returns the start of the newest record; 0 when there was none.
func (p *Parser) Last() LSN { return p.last }

// Timeline returns the timeline of the newest page header; 0 before the first.
func (p *Parser) Timeline() Timeline { return p.tli }

// Version returns the release that wrote the log; 0 before the first page header,
// unless the Config named one.
func (p *Parser) Version() Version {
	v, _, _ := versionOf(p.magic)
	return v
}

// Mark returns End as a place to go on from.
func (p *Parser) Mark() Mark { return Mark{End: p.end, Last: p.last, Padding: p.pad} }

// Tally returns what was counted since Begin, Resume or TakeTally: all that lies
// between the End of then and the End of now.
func (p *Parser) Tally() Tally { return p.tally }

// TakeTally returns Tally and counts anew.
func (p *Parser) TakeTally() Tally {
	t := p.tally
	p.tally = Tally{}
	return t
}

// headerSize returns the size of the header of the page that holds lsn.
func (p *Parser) headerSize(lsn LSN) int {
	if page := lsn.PageStart(); p.cfg.SegmentSize.Start(page) == page {
		return pageHeaderLong
	}
	return pageHeaderShort
}

// Push reads b, the log from at on, and keeps none of it. at must be Next. An
// error is a *tidegate.Error around a *[Fault]; End, Mark and Tally then say what
// was good before it.
func (p *Parser) Push(at LSN, b []byte) error {
	if p.err != nil {
		return p.err
	}
	if at != p.next {
		return p.fault(FaultGap, at, "log from here was pushed, %s is next", p.next)
	}
	for len(b) > 0 {
		off := int(p.next % PageSize)
		switch {
		case p.pad > p.next:
			b = b[p.padding(b):]
		case off == 0 || p.headerLen > 0:
			n, err := p.takeHeader(b)
			if err != nil {
				return err
			}
			b = b[n:]
		default:
			n := min(PageSize-off, len(b))
			if err := p.page(b[:n]); err != nil {
				return err
			}
			b = b[n:]
		}
	}
	return nil
}

// padding skips what follows a switch. A server writes zeros there, without page
// headers, but after a crash older pages may lie there instead.
func (p *Parser) padding(b []byte) int {
	n := min(int(p.pad-p.next), len(b))
	p.next += LSN(n)
	p.end = max(p.end, p.next.PageStart())
	if p.next == p.pad {
		p.pad = 0
	}
	return n
}

// page reads b, which lies on one page behind its header.
func (p *Parser) page(b []byte) error {
	for len(b) > 0 {
		var n int
		var err error
		switch {
		case p.first == 0 && p.foreign == 0: // no page was found yet
			n = len(b)
			p.next += LSN(n)
		case p.foreign > 0:
			n = p.skipForeign(b)
		case p.pad > p.next: // a switch record was on this page
			n = p.padding(b)
		case p.piece.got == 0 && len(b) >= recordHeader && wholeRecord(b):
			n, err = p.whole(b)
		default:
			n, err = p.take(b)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (p *Parser) skipForeign(b []byte) int {
	n := min(int(min(p.foreign, PageSize)), len(b))
	p.next += LSN(n)
	if p.foreign -= uint64(n); p.foreign == 0 {
		p.first, p.end = p.next, p.next
	}
	return n
}

// wholeRecord reports whether b begins with all of a record and of its alignment.
func wholeRecord(b []byte) bool {
	size := binary.LittleEndian.Uint32(b)
	return size >= recordHeader && size <= PageSize && int(alignSize(size)) <= len(b)
}

// whole reads the record that b begins with. It lies on one page, so nothing of
// it is copied.
func (p *Parser) whole(b []byte) (int, error) {
	size := binary.LittleEndian.Uint32(b)
	if err := p.checkHeader(b[:recordHeader], p.next); err != nil {
		return 0, err
	}
	n := alignSize(size)
	crc := crc32.Update(0, castagnoli, b[recordHeader:size])
	return int(n), p.finish(b[:size], p.next, p.next+LSN(n), crc)
}

// take adds what b has of the record in pieces.
func (p *Parser) take(b []byte) (int, error) {
	r := &p.piece
	if r.got == 0 {
		r.start, r.size, r.crc, r.keep, r.kept = p.next, 0, 0, false, r.kept[:0]
	}
	if r.got < recordHeader {
		return p.takeRecordHeader(b)
	}
	n := min(int(alignSize(r.size)-r.got), len(b))
	data := b[:min(n, max(0, int(r.size)-int(r.got)))] // without the bytes of alignment
	r.crc = crc32.Update(r.crc, castagnoli, data)
	if r.got < headBytes {
		copy(r.head[r.got:], data)
	}
	if r.keep {
		r.kept = append(r.kept, data...)
	}
	r.got += uint32(n)
	p.next += LSN(n)
	return n, p.complete()
}

// takeRecordHeader adds to the header of the record in pieces. Its size is on the
// record's first page, because records are aligned; the rest may be on the next.
func (p *Parser) takeRecordHeader(b []byte) (int, error) {
	r := &p.piece
	n := copy(r.head[r.got:recordHeader], b)
	r.got += uint32(n)
	p.next += LSN(n)
	if r.size == 0 && r.got >= 4 {
		r.size = binary.LittleEndian.Uint32(r.head[:])
		if err := p.checkSize(r.size, r.start); err != nil {
			return 0, err
		}
	}
	if r.got < recordHeader {
		return n, nil
	}
	if err := p.checkHeader(r.head[:recordHeader], r.start); err != nil {
		return 0, err
	}
	if r.keep = r.head[17] == rmXact; r.keep {
		r.kept = append(r.kept, r.head[:recordHeader]...)
	}
	return n, p.complete()
}

// complete finishes the record in pieces if it and its alignment are there.
func (p *Parser) complete() error {
	r := &p.piece
	if r.got < alignSize(r.size) {
		return nil
	}
	body := r.head[:min(r.size, headBytes)]
	if r.keep {
		body = r.kept
	}
	r.got = 0
	return p.finish(body, r.start, p.next, r.crc)
}

func alignSize(size uint32) uint32 { return (size + recordAlign - 1) &^ (recordAlign - 1) }
