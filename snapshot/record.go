package snapshot

import (
	"fmt"
	"hash/crc32"

	"github.com/tidegate/tidegate"
)

// Sizes of a pack's parts, in bytes; see docs/formats/snapshot.md.
const (
	packHeaderSize   = 32
	recordHeaderSize = 80
	refSize          = 32 + 2 // page name, source, ordinal
	indexHeaderSize  = 32
	indexEntrySize   = 52
	tableBytesMax    = recordHeaderSize + ExtentPages*(refSize+32) + 4
	recordBytesMax   = tableBytesMax + ExtentBytes
)

const (
	packMagic   = "TGPK"
	indexMagic  = "TGPI"
	recordMagic = "TGPR"
	version     = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ref says where a page's bytes are: in the record's own payload (source 0) or
// in that of the extent sources[source-1], as page number ordinal of the payload.
type ref struct{ source, ordinal uint8 }

// record is one extent in a pack: the names of all its pages, and the bytes of
// those that were not in the store before. A source's bytes are its own, so that
// no chain of records grows.
type record struct {
	place   uint64
	x       Extent
	refs    []ref // one per page
	sources []Name
	own     int // bytes of the payload when opened
	payload Payload
}

// ownBytes adds up the pages of the record's own payload; a page that is there
// twice is counted once.
func (r *record) ownBytes() (sum int) {
	next := uint8(0)
	for i, f := range r.refs {
		if f.source == 0 && f.ordinal == next {
			sum += r.x.pageLen(i)
			next++
		}
	}
	return sum
}

// need returns the pages that are in the record's own payload.
func (r *record) need() (n Need) {
	next := uint8(0)
	for i, f := range r.refs {
		if f.source == 0 && f.ordinal == next {
			n.Add(i)
			next++
		}
	}
	return n
}

// append encodes the record behind b.
func (r *record) append(b []byte) []byte {
	at := len(b)
	b = append(b, recordMagic...)
	b = le.AppendUint32(b, uint32(recordHeaderSize+len(r.refs)*refSize+len(r.sources)*32+4+len(r.payload.Stored)))
	b = le.AppendUint64(b, r.place)
	b = append(b, r.x.Name[:]...)
	b = le.AppendUint32(b, uint32(r.x.Bytes))
	b = le.AppendUint16(b, uint16(len(r.refs)))
	b = le.AppendUint16(b, uint16(len(r.sources)))
	b = append(b, byte(r.payload.Encoding), 0, 0, 0)
	b = le.AppendUint32(b, uint32(r.own))
	b = le.AppendUint32(b, uint32(len(r.payload.Stored)))
	b = le.AppendUint32(b, crc32.Checksum(r.payload.Stored, castagnoli))
	b = le.AppendUint64(b, 0) // reserved
	for i, f := range r.refs {
		b = append(b, r.x.Pages[i][:]...)
		b = append(b, f.source, f.ordinal)
	}
	for i := range r.sources {
		b = append(b, r.sources[i][:]...)
	}
	b = le.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
	return append(b, r.payload.Stored...)
}

// parseRecord parses what append wrote, at the start of b; the payload and
// nothing else shares memory with b. Only checksums and form are looked at: whether
// names and bytes belong together is the reader's to find out.
func parseRecord(b []byte) (r record, err error) {
	pages, sources, table, err := parseTable(b)
	if err != nil {
		return r, err
	}
	total := int(le.Uint32(b[4:]))
	switch {
	case len(b) < total:
		return r, badRecord("record is cut")
	case crc32.Checksum(b[table+4:total], castagnoli) != le.Uint32(b[68:]):
		return r, badRecord("checksum of payload does not match")
	case b[57]|b[58]|b[59] != 0 || le.Uint64(b[72:]) != 0:
		return r, badRecord("reserved bytes are set")
	}
	r.place = le.Uint64(b[8:])
	copy(r.x.Name[:], b[16:48])
	r.x.Bytes, r.own = int(le.Uint32(b[48:])), int(le.Uint32(b[60:]))
	r.payload = Payload{Encoding(b[56]), b[table+4 : total : total]}
	r.x.Pages, r.refs = make([]Name, pages), make([]ref, pages)
	for i := range pages {
		e := b[recordHeaderSize+i*refSize:]
		copy(r.x.Pages[i][:], e)
		r.refs[i] = ref{e[32], e[33]}
	}
	r.sources = sourcesIn(b, pages, sources)
	return r, r.check()
}

// parseTable finds the header and the table at the start of b, which may end
// behind them, and how many pages and sources they have. table is where the
// checksum follows.
func parseTable(b []byte) (pages, sources, table int, err error) {
	if len(b) < recordHeaderSize {
		return 0, 0, 0, badRecord("header is cut")
	}
	total := int(le.Uint32(b[4:]))
	pages, sources = int(le.Uint16(b[52:])), int(le.Uint16(b[54:]))
	stored := int(le.Uint32(b[64:]))
	table = recordHeaderSize + pages*refSize + sources*32
	switch {
	case string(b[:4]) != recordMagic:
		err = badRecord(fmt.Sprintf("magic %q", b[:4]))
	case pages < 1 || pages > ExtentPages || sources > ExtentPages || stored > ExtentBytes || total != table+4+stored:
		err = badRecord(fmt.Sprintf("%d bytes for %d pages, %d sources and a payload of %d", total, pages, sources, stored))
	case len(b) < table+4:
		err = badRecord("record is cut")
	case crc32.Checksum(b[:table], castagnoli) != le.Uint32(b[table:]):
		err = badRecord("checksum of header and table does not match")
	}
	return pages, sources, table, err
}

func sourcesIn(b []byte, pages, sources int) []Name {
	list := make([]Name, sources)
	for i := range list {
		copy(list[i][:], b[recordHeaderSize+pages*refSize+i*32:])
	}
	return list
}

// parseSources reads an extent's name, and in which others' payloads pages of it
// are, out of a record of which b holds the table at least.
func parseSources(b []byte) (x Name, from []Name, err error) {
	pages, sources, _, err := parseTable(b)
	if err != nil {
		return x, nil, err
	}
	copy(x[:], b[16:48])
	return x, sourcesIn(b, pages, sources), nil
}

// check verifies that the table is one that could have been written.
func (r *record) check() error {
	if r.x.Bytes < 1 || r.x.Bytes > ExtentBytes || pagesOf(r.x.Bytes) != len(r.refs) {
		return badRecord(fmt.Sprintf("extent of %d bytes in %d pages", r.x.Bytes, len(r.refs)))
	}
	next := uint8(0)
	for i, f := range r.refs {
		switch {
		case int(f.source) > len(r.sources):
			return badRecord(fmt.Sprintf("page %d is in source %d of %d", i, f.source, len(r.sources)))
		case f.source > 0:
		case f.ordinal > next:
			return badRecord(fmt.Sprintf("page %d is number %d of the payload, %d was next", i, f.ordinal, next))
		case f.ordinal == next:
			next++
		}
	}
	if got := r.ownBytes(); got != r.own {
		return badRecord(fmt.Sprintf("payload of %d bytes for pages of %d", r.own, got))
	}
	return nil
}

func badRecord(what string) error {
	return &tidegate.CorruptError{Path: "pack", Offset: -1, What: what}
}

// packHeader is the start of a pack file.
func packHeader(number uint64) []byte {
	b := make([]byte, packHeaderSize)
	copy(b, packMagic)
	le.PutUint16(b[4:], version)
	le.PutUint64(b[8:], number)
	le.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	return b
}

func parsePackHeader(b []byte) (number uint64, err error) {
	return parseFileHeader(b, packMagic)
}

// parseFileHeader checks the 32 bytes that packs and indexes begin with.
func parseFileHeader(b []byte, magic string) (number uint64, err error) {
	switch {
	case len(b) < packHeaderSize || string(b[:4]) != magic:
		return 0, badRecord("no " + magic + " at its start")
	case le.Uint16(b[4:]) != version:
		return 0, fmt.Errorf("version %d: %w", le.Uint16(b[4:]), tidegate.ErrUnsupported)
	case crc32.Checksum(b[:28], castagnoli) != le.Uint32(b[28:]):
		return 0, badRecord("checksum of the header does not match")
	case le.Uint16(b[6:]) != 0 || le.Uint64(b[20:]) != 0 || magic == packMagic && le.Uint32(b[16:]) != 0:
		return 0, badRecord("reserved bytes of the header are set")
	}
	return le.Uint64(b[8:]), nil
}

// indexEntry is one record of a sealed pack.
type indexEntry struct {
	name   Name
	place  uint64
	offset int64
	length uint32
}

// appendIndex encodes the index of a sealed pack of size bytes.
func appendIndex(b []byte, number uint64, entries []indexEntry) []byte {
	at := len(b)
	head := make([]byte, indexHeaderSize)
	copy(head, indexMagic)
	le.PutUint16(head[4:], version)
	le.PutUint64(head[8:], number)
	le.PutUint32(head[16:], uint32(len(entries)))
	le.PutUint32(head[28:], crc32.Checksum(head[:28], castagnoli))
	b = append(b, head...)
	for _, e := range entries {
		b = append(b, e.name[:]...)
		b = le.AppendUint64(b, e.place)
		b = le.AppendUint64(b, uint64(e.offset))
		b = le.AppendUint32(b, e.length)
	}
	return le.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func parseIndex(b []byte) (number uint64, entries []indexEntry, err error) {
	if number, err = parseFileHeader(b, indexMagic); err != nil {
		return 0, nil, err
	}
	n := int(le.Uint32(b[16:]))
	end := indexHeaderSize + n*indexEntrySize
	switch {
	case len(b) != end+4:
		return 0, nil, badRecord(fmt.Sprintf("index of %d bytes for %d records", len(b), n))
	case crc32.Checksum(b[:end], castagnoli) != le.Uint32(b[end:]):
		return 0, nil, badRecord("checksum of the index does not match")
	}
	entries = make([]indexEntry, n)
	for i := range entries {
		e := b[indexHeaderSize+i*indexEntrySize:]
		copy(entries[i].name[:], e)
		entries[i].place = le.Uint64(e[32:])
		entries[i].offset = int64(le.Uint64(e[40:]))
		entries[i].length = le.Uint32(e[48:])
		if x := &entries[i]; x.offset < packHeaderSize || x.length < recordHeaderSize || x.length > recordBytesMax {
			return 0, nil, badRecord(fmt.Sprintf("index names %d bytes at %d", x.length, x.offset))
		}
	}
	return number, entries, nil
}
