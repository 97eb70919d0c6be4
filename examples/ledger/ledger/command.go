package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/tidegate/tidegate"
)

// Currency names one ledger, one journal and one stream. Transfers never cross
// currencies. The zero value is no currency.
type Currency uint8

// The currencies this service keeps.
const (
	EUR Currency = 1
	USD Currency = 2
)

// Currencies returns every currency, in the order in which they are handled
// wherever an order matters.
func Currencies() []Currency { return []Currency{EUR, USD} }

func (c Currency) String() string {
	switch c {
	case EUR:
		return "eur"
	case USD:
		return "usd"
	}
	return fmt.Sprintf("currency(%d)", uint8(c))
}

// MarshalText implements [encoding.TextMarshaler].
func (c Currency) MarshalText() ([]byte, error) {
	if _, err := ParseCurrency(c.String()); err != nil {
		return nil, err
	}
	return []byte(c.String()), nil
}

// UnmarshalText accepts what MarshalText writes.
func (c *Currency) UnmarshalText(b []byte) (err error) {
	*c, err = ParseCurrency(string(b))
	return err
}

// ParseCurrency parses "eur" or "usd".
func ParseCurrency(s string) (Currency, error) {
	for _, c := range Currencies() {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, fmt.Errorf("parse currency %q: want eur or usd", s)
}

// ClientID is drawn by a client for itself; its request numbers count within it.
type ClientID = tidegate.ID

// Request numbers a client's commands; the first is 1.
type Request uint64

// Amount is money in the currency's smallest unit (cents).
type Amount uint64

// AmountMax bounds one command. The minted total is bounded by the same number
// ([State.Apply] refuses beyond), so that no balance can overflow.
const AmountMax Amount = math.MaxInt64

// AccountID names an account within a currency: 1 to [AccountIDLenMax] bytes in
// the alphabet of [tidegate.ValidName].
type AccountID string

// AccountIDLenMax bounds an account's name, in bytes.
const AccountIDLenMax = tidegate.NameLenMax

// Kind says what a command does.
type Kind uint8

// The kinds. A reader that meets another one stops.
const (
	KindOpen     Kind = 1 // To comes into being with balance 0
	KindDeposit  Kind = 2 // Amount from the mint to To
	KindTransfer Kind = 3 // Amount from From to To
)

func (k Kind) String() string {
	switch k {
	case KindOpen:
		return "open"
	case KindDeposit:
		return "deposit"
	case KindTransfer:
		return "transfer"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Command is what a client asks for. (Client, Request) names it for ever.
type Command struct {
	Kind     Kind
	Currency Currency
	TimeUnix int64 // when the leader took it in, unix ns; travels in the bytes, decides nothing
	Client   ClientID
	Request  Request
	Amount   Amount    // 0 for open
	From     AccountID // empty unless transfer
	To       AccountID
}

// A command's bytes, version 1, little-endian:
//
//	0      1    2        3   4        5      6          8     16     32      40     48
//	+------+----+--------+---+--------+------+----------+-----+------+-------+------+------+----+
//	|ver 1 |kind|currency| 0 |from len|to len| reserved |time |client|request|amount| from | to |
//	+------+----+--------+---+--------+------+----------+-----+------+-------+------+------+----+
//
// There is no checksum of its own: the journal's and raft's records carry one.
const (
	commandVersion   = 1
	commandHeaderLen = 48
	// CommandLenMax bounds an encoded command, in bytes.
	CommandLenMax = commandHeaderLen + 2*AccountIDLenMax
)

// Validate reports everything that makes c unfit to be journaled. It does not
// look at any state: overdrafts and unknown accounts are outcomes, not errors.
func (c *Command) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Currency != EUR && c.Currency != USD {
		bad("currency: want eur or usd (got %d)", uint8(c.Currency))
	}
	if c.Client.IsZero() {
		bad("client: want a non-zero id")
	}
	if c.Request == 0 {
		bad("request: want 1 or more (got 0)")
	}
	if c.Amount > AmountMax {
		bad("amount: want at most %d (got %d)", AmountMax, c.Amount)
	}
	if err := tidegate.ValidName(string(c.To)); err != nil {
		bad("to: %w", err)
	}
	switch c.Kind {
	case KindOpen:
		if c.Amount != 0 || c.From != "" {
			bad("open: want no amount and no from")
		}
	case KindDeposit:
		if c.Amount == 0 || c.From != "" {
			bad("deposit: want an amount above 0 and no from")
		}
	case KindTransfer:
		if c.Amount == 0 {
			bad("transfer: want an amount above 0")
		}
		if err := tidegate.ValidName(string(c.From)); err != nil {
			bad("from: %w", err)
		}
	default:
		bad("kind: want open, deposit or transfer (got %d)", uint8(c.Kind))
	}
	return errors.Join(errs...)
}

// Append appends c's bytes to dst. It refuses a command that [Command.Validate]
// refuses, so that nothing undecodable is ever journaled.
func (c *Command) Append(dst []byte) ([]byte, error) {
	if err := c.Validate(); err != nil {
		return dst, fmt.Errorf("encode command: %w", err)
	}
	dst = append(dst, commandVersion, byte(c.Kind), byte(c.Currency), 0, byte(len(c.From)), byte(len(c.To)), 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(c.TimeUnix))
	dst = append(dst, c.Client[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Request))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Amount))
	dst = append(dst, c.From...)
	return append(dst, c.To...), nil
}

// DecodeCommand is the strict inverse of [Command.Append]: it accepts exactly
// the bytes that Append writes.
func DecodeCommand(b []byte) (Command, error) {
	f, err := parseFields(b)
	if err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	c := Command{
		Kind: f.kind, Currency: f.currency, TimeUnix: f.timeUnix, Client: f.client,
		Request: f.request, Amount: f.amount, From: AccountID(f.from), To: AccountID(f.to),
	}
	if err := c.Validate(); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	return c, nil
}

// fields is a command whose names still lie in the record's bytes: replay
// copies and allocates nothing.
type fields struct {
	kind     Kind
	currency Currency
	timeUnix int64
	client   ClientID
	request  Request
	amount   Amount
	from, to []byte
}

// parseFields checks the layout; the values are checked by Validate or, on the
// replay path, by what Apply does with them.
func parseFields(b []byte) (fields, error) {
	if len(b) < commandHeaderLen {
		return fields{}, fmt.Errorf("%d bytes: want at least %d", len(b), commandHeaderLen)
	}
	if b[0] != commandVersion {
		return fields{}, fmt.Errorf("version %d: %w", b[0], tidegate.ErrUnsupported)
	}
	if b[3] != 0 || b[6] != 0 || b[7] != 0 {
		return fields{}, errors.New("reserved bytes: want 0")
	}
	from, to := int(b[4]), int(b[5])
	if len(b) != commandHeaderLen+from+to {
		return fields{}, fmt.Errorf("%d bytes: want %d", len(b), commandHeaderLen+from+to)
	}
	return fields{
		kind:     Kind(b[1]),
		currency: Currency(b[2]),
		timeUnix: int64(binary.LittleEndian.Uint64(b[8:])),
		client:   ClientID(b[16:32]),
		request:  Request(binary.LittleEndian.Uint64(b[32:])),
		amount:   Amount(binary.LittleEndian.Uint64(b[40:])),
		from:     b[commandHeaderLen : commandHeaderLen+from],
		to:       b[commandHeaderLen+from:],
	}, nil
}

// RecordTime returns the time in an encoded command.
func RecordTime(rec []byte) (time.Time, error) {
	f, err := parseFields(rec)
	if err != nil {
		return time.Time{}, fmt.Errorf("decode command: %w", err)
	}
	return time.Unix(0, f.timeUnix), nil
}

// RecordCurrency returns the currency of an encoded command.
func RecordCurrency(rec []byte) (Currency, error) {
	f, err := parseFields(rec)
	if err != nil {
		return 0, fmt.Errorf("decode command: %w", err)
	}
	return f.currency, nil
}

// RecordRequest returns whose request an encoded command is, and which.
func RecordRequest(rec []byte) (ClientID, Request, error) {
	f, err := parseFields(rec)
	if err != nil {
		return ClientID{}, 0, fmt.Errorf("decode command: %w", err)
	}
	return f.client, f.request, nil
}
