package ledger

import (
	"fmt"

	"github.com/tidegate/tidegate"
)

// Code says what came of a command. Every code but Done is a refusal that
// changed no balance.
type Code uint8

// The codes. Their numbers are in snapshots and never change.
const (
	Done           Code = 1
	Overdraft      Code = 2 // From has less than the amount
	UnknownAccount Code = 3
	AccountExists  Code = 4
	SameAccount    Code = 5 // From and To are one account
	MintExhausted  Code = 6 // the minted total would pass AmountMax
	AccountLimit   Code = 7 // AccountsMax accounts exist
	ClientLimit    Code = 8 // ClientsMax clients are known; a new one has no window to be remembered in
	RequestTooOld  Code = 9 // the request number left the window: whether it was carried out is no longer known
	RequestReused  Code = 10
)

var codeNames = [...]string{
	Done: "done", Overdraft: "overdraft", UnknownAccount: "unknown-account", AccountExists: "account-exists",
	SameAccount: "same-account", MintExhausted: "mint-exhausted", AccountLimit: "account-limit",
	ClientLimit: "client-limit", RequestTooOld: "request-too-old", RequestReused: "request-reused",
}

func (c Code) String() string {
	if c >= Done && int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("code(%d)", uint8(c))
}

// MarshalText implements [encoding.TextMarshaler].
func (c Code) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText accepts what MarshalText writes for a known code.
func (c *Code) UnmarshalText(b []byte) error {
	for code, name := range codeNames {
		if name != "" && name == string(b) {
			*c = Code(code)
			return nil
		}
	}
	return fmt.Errorf("parse outcome code %q: unknown", b)
}

// Outcome is what came of a command. For a repeated request it is the outcome
// of the first time, with the position of the first time.
type Outcome struct {
	Code      Code
	First     tidegate.Position // where the record that decided it begins
	Next      tidegate.Position // where that record ends: the ceiling must reach this before the client may know
	Balance   int64             // of From after a transfer, of To after a deposit; 0 for refusals
	Duplicate bool              // this record only repeated an earlier one
}
