package tidegate

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Seq numbers a sealed batch within its stream, contiguous from 1; 0 is "none".
// It is the only index of append, ack, fence, adopt, commit and trim. Text form:
// 16 lower-case hex digits.
type Seq uint64

// Position is a place in the source's own log (a journal offset, an LSN, a
// replication offset). Ranges are half-open. Positions compare only within one
// generation. Text form: 16 lower-case hex digits.
type Position uint64

// Epoch is the fencing token of a stream, issued by the gate; 0 is "none".
// Text form: decimal.
type Epoch uint64

// EpochDrillFirst is where the epochs of sandboxes begin. No gate ever issues one, and
// what shows one is refused wherever a live log is written: a service that a drill has
// promoted is of a history of its own, also where its files come to lie elsewhere.
const EpochDrillFirst Epoch = 1 << 62

// Generation numbers a base together with the log that follows it; the first is 1.
type Generation uint32

// Instant is boot time in nanoseconds: monotone, advancing through suspend, and
// meaningless on another machine or after a reboot. 0 is "never".
type Instant int64

// Lineage names the source's own history, for a journal "journal:<id>" followed
// by its branches "+<branch>@<position>".
type Lineage string

// FeedbackMax bounds, in bytes, what a warm copy asks of its source: an opaque text of
// its store's, which local and ship sessions carry as it is.
const FeedbackMax = 64

// NodeName names a machine, unique in the cluster; see [ValidName].
type NodeName string

// SiteName names a data centre; see [ValidName].
type SiteName string

// ServiceName names a consistency group of streams; see [ValidName].
type ServiceName string

// StreamName names a stream, unique in its service; see [ValidName].
type StreamName string

// ID is 128 random bits. Text form: 32 lower-case hex digits.
type ID [16]byte

// StreamID identifies a stream on the wire and on disk, for ever.
type StreamID = ID

// HolderID is drawn at every start of an agent: a start is a change of writer.
type HolderID = ID

// Incarnation is drawn when a standby's data directory is formatted; a node
// that lost its disk comes back with another one.
type Incarnation = ID

// Digest is SHA-256 cut to 128 bits over the raw payload of a batch, or over a state.
type Digest [16]byte

// Chain is the hash chain over batch headers: it proves the whole log before it.
type Chain [16]byte

func (s Seq) String() string      { return hex16(uint64(s)) }
func (p Position) String() string { return hex16(uint64(p)) }
func (e Epoch) String() string    { return strconv.FormatUint(uint64(e), 10) }
func (i ID) String() string       { return hex.EncodeToString(i[:]) }
func (d Digest) String() string   { return hex.EncodeToString(d[:]) }
func (c Chain) String() string    { return hex.EncodeToString(c[:]) }

// IsDrill reports whether e is of a sandbox.
func (e Epoch) IsDrill() bool { return e >= EpochDrillFirst }

// IsDrill reports whether l has a branch of a sandbox's epoch.
func (l Lineage) IsDrill() bool {
	for branch := range strings.SplitSeq(string(l), "+") {
		epoch, _, is := strings.Cut(branch, "@")
		if e, err := ParseEpoch(epoch); is && err == nil && e.IsDrill() {
			return true
		}
	}
	return false
}

// IsZero reports whether i is unset.
func (i ID) IsZero() bool { return i == ID{} }

// IsZero reports whether d is unset.
func (d Digest) IsZero() bool { return d == Digest{} }

// IsZero reports whether c is the chain of an empty log.
func (c Chain) IsZero() bool { return c == Chain{} }

// MarshalText implements [encoding.TextMarshaler]: JSON carries numbers as
// strings, because JavaScript cuts 64-bit integers to 53 bits.
func (s Seq) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts exactly what MarshalText writes.
func (s *Seq) UnmarshalText(b []byte) error { return parseHex16("seq", b, (*uint64)(s)) }

// MarshalText implements [encoding.TextMarshaler].
func (p Position) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText accepts exactly what MarshalText writes.
func (p *Position) UnmarshalText(b []byte) error { return parseHex16("position", b, (*uint64)(p)) }

// MarshalText implements [encoding.TextMarshaler].
func (e Epoch) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText accepts a decimal number without sign or leading zeros.
func (e *Epoch) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil || strconv.FormatUint(v, 10) != string(b) {
		return fmt.Errorf("parse epoch %q: want a decimal number", b)
	}
	*e = Epoch(v)
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (i ID) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText accepts exactly 32 lower-case hex digits.
func (i *ID) UnmarshalText(b []byte) error { return parseHex128("id", b, (*[16]byte)(i)) }

// MarshalText implements [encoding.TextMarshaler].
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText accepts exactly 32 lower-case hex digits.
func (d *Digest) UnmarshalText(b []byte) error { return parseHex128("digest", b, (*[16]byte)(d)) }

// MarshalText implements [encoding.TextMarshaler].
func (c Chain) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText accepts exactly 32 lower-case hex digits.
func (c *Chain) UnmarshalText(b []byte) error { return parseHex128("chain", b, (*[16]byte)(c)) }

// ParseSeq parses the text form of a Seq.
func ParseSeq(s string) (v Seq, err error) { err = v.UnmarshalText([]byte(s)); return v, err }

// ParsePosition parses the text form of a Position.
func ParsePosition(s string) (v Position, err error) {
	err = v.UnmarshalText([]byte(s))
	return v, err
}

// ParseEpoch parses the text form of an Epoch.
func ParseEpoch(s string) (v Epoch, err error) { err = v.UnmarshalText([]byte(s)); return v, err }

// ParseID parses the text form of an ID.
func ParseID(s string) (v ID, err error) { err = v.UnmarshalText([]byte(s)); return v, err }

// NewID draws a random ID.
func NewID() ID {
	var id ID
	// crypto/rand.Read never fails: it crashes the process when the kernel gives no randomness.
	_, _ = rand.Read(id[:])
	return id
}

// NameLenMax bounds the names of nodes, sites, services and streams, in bytes.
const NameLenMax = 63

// ValidName reports whether s may name a node, site, service or stream: 1 to
// [NameLenMax] of a-z, 0-9 and '-', starting with a letter, not ending with '-'.
// Names become file names, URI parts and metric labels unchanged.
func ValidName(s string) error {
	if len(s) == 0 || len(s) > NameLenMax {
		return fmt.Errorf("name %q: want 1 to %d characters", s, NameLenMax)
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z'
		inner := c >= '0' && c <= '9' || c == '-' && i < len(s)-1
		if !letter && (i == 0 || !inner) {
			return fmt.Errorf("name %q: want a-z, 0-9 and '-', starting with a letter, not ending with '-'", s)
		}
	}
	return nil
}

func hex16(v uint64) string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i := range b {
		b[i] = digits[v>>(60-4*i)&15]
	}
	return string(b[:])
}

func parseHex16(what string, b []byte, v *uint64) error {
	var raw [8]byte
	if err := parseHex(what, b, raw[:]); err != nil {
		return err
	}
	*v = 0
	for _, c := range raw {
		*v = *v<<8 | uint64(c)
	}
	return nil
}

func parseHex128(what string, b []byte, v *[16]byte) error {
	var raw [16]byte
	if err := parseHex(what, b, raw[:]); err != nil {
		return err
	}
	*v = raw
	return nil
}

func parseHex(what string, b, to []byte) error {
	ok := len(b) == 2*len(to)
	for _, c := range b {
		ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}
	if !ok {
		return fmt.Errorf("parse %s %q: want %d lower-case hex digits", what, b, 2*len(to))
	}
	_, err := hex.Decode(to, b)
	return err
}
