package walsender

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/tidegate/tidegate/stores/postgres/wal"
)

// Inside COPY BOTH each message is a CopyData, 'd' and an int32 length that
// counts itself, around one message of the streaming protocol. All numbers are
// big endian; times are microseconds since 2000-01-01 UTC.
const (
	copyHeaderBytes = 1 + 4
	logHeaderBytes  = copyHeaderBytes + 1 + 8 + 8 + 8 // 'w', start, end of log, time
	keepaliveBytes  = copyHeaderBytes + 1 + 8 + 8 + 1 // 'k', sent, time, reply requested
	statusBytes     = 1 + 8 + 8 + 8 + 8 + 1           // 'r', write, flush, apply, time, reply requested
	feedbackBytes   = 1 + 8 + 4 + 4 + 4 + 4           // 'h', time, xmin and epoch, catalog xmin and epoch

	// receiverBytesMax bounds any message from a receiver.
	receiverBytesMax = 8192
)

// epoch2000 is where PostgreSQL's timestamps begin.
var epoch2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func timestamp(t time.Time) uint64 { return uint64(t.Sub(epoch2000).Microseconds()) }

// timeOf is timestamp's inverse. A duration would not hold all values that may
// come, so it counts from the Unix epoch.
func timeOf(us uint64) time.Time {
	return time.UnixMicro(int64(us) + epoch2000.UnixMicro()).UTC()
}

// putLogHeader fills h with what precedes n bytes of log that begin at start.
func putLogHeader(h *[logHeaderBytes]byte, start wal.LSN, n int, end wal.LSN, now time.Time) {
	h[0] = 'd'
	binary.BigEndian.PutUint32(h[1:], uint32(logHeaderBytes-1+n))
	h[5] = 'w'
	binary.BigEndian.PutUint64(h[6:], uint64(start))
	binary.BigEndian.PutUint64(h[14:], uint64(end))
	binary.BigEndian.PutUint64(h[22:], timestamp(now))
}

// putKeepalive fills b with a whole keepalive message.
func putKeepalive(b *[keepaliveBytes]byte, sent wal.LSN, now time.Time, reply bool) {
	b[0] = 'd'
	binary.BigEndian.PutUint32(b[1:], keepaliveBytes-1)
	b[5] = 'k'
	binary.BigEndian.PutUint64(b[6:], uint64(sent))
	binary.BigEndian.PutUint64(b[14:], timestamp(now))
	b[22] = 0
	if reply {
		b[22] = 1
	}
}

// errReceiver is the cause of every refusal of a receiver's message in a stream.
var errReceiver = errors.New("protocol violation by the receiver")

// parseStatus reads an 'r' message, its letter included.
func parseStatus(b []byte) (s Status, reply bool, err error) {
	if len(b) != statusBytes {
		return Status{}, false, fmt.Errorf("%w: status of %d bytes, want %d", errReceiver, len(b), statusBytes)
	}
	s = Status{
		Write: wal.LSN(binary.BigEndian.Uint64(b[1:])),
		Flush: wal.LSN(binary.BigEndian.Uint64(b[9:])),
		Apply: wal.LSN(binary.BigEndian.Uint64(b[17:])),
		At:    timeOf(binary.BigEndian.Uint64(b[25:])),
	}
	return s, b[33] != 0, nil
}

// parseFeedback reads an 'h' message, its letter included.
func parseFeedback(b []byte) (Feedback, error) {
	if len(b) != feedbackBytes {
		return Feedback{}, fmt.Errorf("%w: feedback of %d bytes, want %d", errReceiver, len(b), feedbackBytes)
	}
	return Feedback{
		At:               timeOf(binary.BigEndian.Uint64(b[1:])),
		Xmin:             binary.BigEndian.Uint32(b[9:]),
		XminEpoch:        binary.BigEndian.Uint32(b[13:]),
		CatalogXmin:      binary.BigEndian.Uint32(b[17:]),
		CatalogXminEpoch: binary.BigEndian.Uint32(b[21:]),
	}, nil
}
