package seglog

// HeaderSize is the size of a segment's header, in bytes; records follow.
const HeaderSize = 64

// SegmentBytesDefault is [Config.SegmentBytes] when that is zero.
const SegmentBytesDefault = 64 << 20

// State is 16 bytes of the caller's that go with a place in the log.
type State [16]byte

// Record is what a record's header says about it.
type Record struct {
	Len  int    // bytes, header included
	Next uint64 // index after the record; greater than its own
}

// Format knows the records of one kind of log. All methods may be called
// concurrently and keep nothing of what they are given.
type Format interface {
	// Magic names the format in segment headers.
	Magic() [4]byte
	// HeaderLen is how many bytes Parse needs, at least 1.
	HeaderLen() int
	// Parse reads a record's header, hdr[:HeaderLen()], of the record at index
	// at. It is called on torn bytes too and must check what it returns: Len
	// decides how much memory a reader takes.
	Parse(hdr []byte, at uint64) (Record, error)
	// Verify checks a whole record, all of whose bytes are in rec.
	Verify(rec []byte, at uint64) error
}

// Chained is a Format whose records prove their predecessors. The state after
// a record is stored in the header of a segment that starts there.
type Chained interface {
	Format
	// State is the state after rec, which has been verified.
	State(rec []byte) State
	// Follows checks that rec may come where the state is prev.
	Follows(prev State, rec []byte) error
}

// Config shapes a log. The zero value means the defaults.
type Config struct {
	// SegmentBytes is the most record bytes in a segment; a longer record gets a
	// segment of its own. Default 64 MiB: a roll costs two syncs, and a segment
	// is the unit of trimming and of the scan at start. It decides where segments
	// begin: do not change it under a log that must stay equal to another.
	SegmentBytes int64
	// First and State start a log that does not exist yet: the index of its
	// first record and the state before it. An existing log keeps its own.
	First uint64
	State State
	// Quarantine is the directory for torn tails, made when needed. Default:
	// "torn" inside the log's directory.
	Quarantine string
}

// Recovery says what [Open] found and did.
type Recovery struct {
	TornBytes   int64  // truncated from the tail; 0 after a clean shutdown
	Quarantined string // file that holds them; empty when there were none
}

// Cut says what [Log.CutTo] moved away.
type Cut struct {
	Dir   string // quarantine directory; empty when there was nothing to cut
	First uint64 // index of the first record cut
	Next  uint64 // index after the last
	Bytes int64  // of records
}

// Attachment is a file to lie beside cut records in quarantine.
type Attachment struct {
	Name string
	Data []byte
}
