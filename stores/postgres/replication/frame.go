package replication

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// postgresEpoch is 2000-01-01 00:00 UTC in microseconds since 1970: what the
// server's timestamps count from.
const postgresEpoch = 946_684_800_000_000

// Lengths of what is inside a CopyData message.
const (
	dataHeaderBytes = 1 + 8 + 8 + 8
	keepaliveBytes  = 1 + 8 + 8 + 1
	statusBytes     = 1 + 8 + 8 + 8 + 8 + 1
	feedbackBytes   = 1 + 8 + 4 + 4 + 4 + 4
	envelopeBytes   = 1 + 4 // type and length of a message
)

// Message is what a server that streams says.
type Message struct {
	Start  wal.LSN // of Data; of a keepalive: the same as End
	Data   []byte  // log from Start on; nil in a keepalive. Borrowed until the next Receive
	End    wal.LSN // end of the server's log when it sent this, as far as it may be streamed
	SentAt int64   // the server's clock then, unix ns
	Reply  bool    // the server wants a status at once; [Stream.Receive] has sent the last one again
}

// Keepalive reports a message without log.
func (m Message) Keepalive() bool { return m.Data == nil }

// Next is the place after the message's log.
func (m Message) Next() wal.LSN { return m.Start + wal.LSN(len(m.Data)) }

// decode reads a CopyData message of a stream. Data borrows b.
func decode(b []byte) (Message, error) {
	if len(b) == 0 {
		return Message{}, fmt.Errorf("empty message in the stream")
	}
	switch {
	case b[0] == 'w' && len(b) > dataHeaderBytes:
		return Message{
			Start:  wal.LSN(binary.BigEndian.Uint64(b[1:])),
			End:    wal.LSN(binary.BigEndian.Uint64(b[9:])),
			SentAt: unixNano(binary.BigEndian.Uint64(b[17:])),
			Data:   b[dataHeaderBytes:],
		}, nil
	case b[0] == 'k' && len(b) == keepaliveBytes:
		end := wal.LSN(binary.BigEndian.Uint64(b[1:]))
		return Message{Start: end, End: end, SentAt: unixNano(binary.BigEndian.Uint64(b[9:])), Reply: b[17] != 0}, nil
	}
	return Message{}, fmt.Errorf("message %q of %d bytes in the stream: want log or a keepalive", b[0], len(b))
}

func unixNano(t uint64) int64 { return (int64(t) + postgresEpoch) * 1000 }

// Status is how far a receiver is. A place of 0 is "not known".
//
// PostgreSQL keeps its log from Flush on, and no place but Flush moves the slot.
// Commits wait for Write (synchronous_commit = remote_write), Flush (on) or Apply
// (remote_apply); a server takes none of the three for an answer to a commit
// while Flush is 0. A server that is shut down waits until everything is flushed.
type Status struct {
	Write wal.LSN
	Flush wal.LSN
	Apply wal.LSN
}

// Check reports places in an order that no receiver can be in.
func (s Status) Check() error {
	if s.Flush > s.Write || s.Apply > s.Flush {
		return fmt.Errorf("status write %s, flush %s, apply %s: want none beyond the one before", s.Write, s.Flush, s.Apply)
	}
	return nil
}

// encodeStatus writes a whole message into b.
func encodeStatus(b *[envelopeBytes + statusBytes]byte, s Status, now time.Time, reply bool) {
	envelope(b[:])
	b[5] = 'r'
	binary.BigEndian.PutUint64(b[6:], uint64(s.Write))
	binary.BigEndian.PutUint64(b[14:], uint64(s.Flush))
	binary.BigEndian.PutUint64(b[22:], uint64(s.Apply))
	binary.BigEndian.PutUint64(b[30:], uint64(now.UnixMicro()-postgresEpoch))
	b[38] = 0
	if reply {
		b[38] = 1
	}
}

// Feedback is what a hot standby's reads still need of the primary's old rows
// (hot_standby_feedback). The zero value releases everything.
type Feedback struct {
	Xmin, XminEpoch               uint32
	CatalogXmin, CatalogXminEpoch uint32
}

// opaqueVersion begins a [Feedback] that travels through Tidegate.
const opaqueVersion = 1

// opaqueBytes is the length of one.
const opaqueBytes = 1 + 4*4

// Opaque returns f in the form in which it goes back from a warm server to the
// primary, through parts that know nothing of PostgreSQL (docs/formats/postgres.md).
func (f Feedback) Opaque() string {
	b := make([]byte, 0, opaqueBytes)
	b = append(b, opaqueVersion)
	for _, n := range [...]uint32{f.Xmin, f.XminEpoch, f.CatalogXmin, f.CatalogXminEpoch} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return string(b)
}

// ParseOpaque reads what [Feedback.Opaque] wrote.
func ParseOpaque(s string) (Feedback, error) {
	if len(s) != opaqueBytes || s[0] != opaqueVersion {
		return Feedback{}, fmt.Errorf("feedback of %d bytes: want %d, the first one %d", len(s), opaqueBytes, opaqueVersion)
	}
	number := func(i int) uint32 { return binary.LittleEndian.Uint32([]byte(s[1+4*i:])) }
	return Feedback{Xmin: number(0), XminEpoch: number(1), CatalogXmin: number(2), CatalogXminEpoch: number(3)}, nil
}

// Oldest returns what both f and g need: of each kind the older transaction, and the
// other's where one of them needs none.
func (f Feedback) Oldest(g Feedback) Feedback {
	f.Xmin, f.XminEpoch = older(f.Xmin, f.XminEpoch, g.Xmin, g.XminEpoch)
	f.CatalogXmin, f.CatalogXminEpoch = older(f.CatalogXmin, f.CatalogXminEpoch, g.CatalogXmin, g.CatalogXminEpoch)
	return f
}

func older(a, aEpoch, b, bEpoch uint32) (xid, epoch uint32) {
	if b == 0 || a != 0 && (aEpoch < bEpoch || aEpoch == bEpoch && a <= b) {
		return a, aEpoch
	}
	return b, bEpoch
}

// encodeFeedback writes a whole message into b.
func encodeFeedback(b *[envelopeBytes + feedbackBytes]byte, f Feedback, now time.Time) {
	envelope(b[:])
	b[5] = 'h'
	binary.BigEndian.PutUint64(b[6:], uint64(now.UnixMicro()-postgresEpoch))
	binary.BigEndian.PutUint32(b[14:], f.Xmin)
	binary.BigEndian.PutUint32(b[18:], f.XminEpoch)
	binary.BigEndian.PutUint32(b[22:], f.CatalogXmin)
	binary.BigEndian.PutUint32(b[26:], f.CatalogXminEpoch)
}

// envelope writes the head of a CopyData message that fills b.
func envelope(b []byte) {
	b[0] = 'd'
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-1))
}
