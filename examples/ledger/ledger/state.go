package ledger

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/tidegate/tidegate"
)

// Limits of one currency. They decide outcomes, so every replica must have the
// same; that is why they are constants and not configuration.
const (
	// Window is how many of a client's newest request numbers are remembered. A
	// client with at most Window requests in flight is never answered RequestTooOld.
	Window = 128
	// ClientsMax bounds the remembered clients, at most 6 KiB each. Forgetting one
	// would let its old requests be carried out twice, so a new one is refused.
	ClientsMax = 16384
	// AccountsMax bounds the accounts of one currency.
	AccountsMax = 1 << 20
	// CheckpointRecords is the distance between checkpoints, in records.
	CheckpointRecords = 4096
	// checkpointsMax bounds how many checkpoints are kept.
	checkpointsMax = 256
)

// State is the ledger of one currency at a position. Make it with [New] or
// [ParseSnapshot]; not safe for concurrent use.
//
// Invariants, checked by [State.Audit]:
//
//  1. no balance is negative
//  2. the balances sum to minted
//  3. every slot of a client's window holds request r at index r % Window,
//     top-Window < r <= top
type State struct {
	currency Currency
	position tidegate.Position // next: everything before it is applied
	records  uint64
	minted   int64
	accounts map[string]*account
	clients  map[ClientID]*client
	hashes
	checkpoints []Checkpoint // ring, oldest first once full
	nextPoint   int
}

type account struct {
	id      AccountID
	balance int64
	item
}

type client struct {
	id    ClientID
	top   Request // newest request number seen
	slots []slot  // by request % Window; nil beyond what was used
	item
}

// slot is one remembered outcome; request 0 marks an unused slot.
type slot struct {
	request     Request
	fingerprint uint32 // of what was asked: a reused number is told from a repeated request
	code        Code
	first, next tidegate.Position
	balance     int64
}

// New returns the empty ledger of a currency.
func New(c Currency) *State {
	return &State{currency: c, accounts: make(map[string]*account), clients: make(map[ClientID]*client)}
}

// Currency returns the currency s keeps.
func (s *State) Currency() Currency { return s.currency }

// Position returns where the next record begins.
func (s *State) Position() tidegate.Position { return s.position }

// Records returns how many commands were applied, refused and repeated ones included.
func (s *State) Records() uint64 { return s.records }

// Minted returns the sum of all deposits.
func (s *State) Minted() int64 { return s.minted }

// Accounts returns how many accounts exist.
func (s *State) Accounts() int { return len(s.accounts) }

// Balance returns an account's balance.
func (s *State) Balance(id AccountID) (int64, bool) {
	a := s.accounts[string(id)]
	if a == nil {
		return 0, false
	}
	return a.balance, true
}

// Lookup returns the remembered outcome of a request. forgotten is true when
// the number is below the client's window, so that nothing can be said.
func (s *State) Lookup(id ClientID, r Request) (o Outcome, found, forgotten bool) {
	c := s.clients[id]
	if c == nil || r > c.top {
		return Outcome{}, false, false
	}
	if c.forgotten(r) {
		return Outcome{}, false, true
	}
	if sl := c.slot(r); sl != nil && sl.request == r {
		return sl.outcome(), true, false
	}
	return Outcome{}, false, false
}

// Remembered returns the outcome of the command in rec if the very same request
// was applied before and is in its client's window.
func (s *State) Remembered(rec []byte) (Outcome, bool) {
	f, err := parseFields(rec)
	if err != nil {
		return Outcome{}, false
	}
	c := s.clients[f.client]
	if c == nil {
		return Outcome{}, false
	}
	sl := c.slot(f.request)
	if sl == nil || sl.request != f.request || sl.fingerprint != fingerprint(rec) {
		return Outcome{}, false
	}
	o := sl.outcome()
	o.Duplicate = true
	return o, true
}

// Apply applies the command in rec, which lies at [first, next) in the journal.
// An error means that rec is not a command of this currency at this position:
// the state is unchanged and the caller stops. rec is only read.
func (s *State) Apply(first, next tidegate.Position, rec []byte) (Outcome, error) {
	f, err := parseFields(rec)
	if err == nil {
		err = s.admissible(&f, first, next)
	}
	if err != nil {
		return Outcome{}, &tidegate.Error{
			Op: "apply record", Subject: fmt.Sprintf("%s@%s", s.currency, first), Class: tidegate.Corrupt, Err: err,
		}
	}
	s.position = next
	s.records++
	o := s.carryOut(&f, rec, first, next)
	if s.records%CheckpointRecords == 0 {
		s.checkpoint()
	}
	return o, nil
}

// Skip moves past a record that is not a command (the journal's own lineage
// and branch records lie between commands).
func (s *State) Skip(first, next tidegate.Position) error {
	if first != s.position || next <= first {
		return &tidegate.Error{
			Op: "skip record", Subject: fmt.Sprintf("%s@%s", s.currency, first), Class: tidegate.Corrupt,
			Err: fmt.Errorf("range ends at %s, state is at %s: %w", next, s.position, tidegate.ErrGap),
		}
	}
	s.position = next
	return nil
}

func (s *State) admissible(f *fields, first, next tidegate.Position) error {
	switch {
	case first != s.position || next <= first:
		return fmt.Errorf("range ends at %s, state is at %s: %w", next, s.position, tidegate.ErrGap)
	case f.currency != s.currency:
		return fmt.Errorf("command in %s", f.currency)
	case f.request == 0 || f.amount > AmountMax:
		return fmt.Errorf("request %d with amount %d out of range", f.request, f.amount)
	}
	switch f.kind {
	case KindOpen:
		if f.amount != 0 || len(f.from) != 0 {
			return errors.New("open with an amount or a from")
		}
		return tidegate.ValidName(string(f.to))
	case KindDeposit, KindTransfer:
		if f.amount == 0 {
			return fmt.Errorf("%s of nothing", f.kind)
		}
		return nil
	}
	return fmt.Errorf("%s: %w", f.kind, tidegate.ErrUnsupported)
}

// carryOut decides between a repeated, a stale and a new request.
func (s *State) carryOut(f *fields, rec []byte, first, next tidegate.Position) Outcome {
	refuse := func(code Code) Outcome { return Outcome{Code: code, First: first, Next: next} }
	c := s.clients[f.client]
	if c == nil {
		if len(s.clients) >= ClientsMax {
			return refuse(ClientLimit)
		}
		c = &client{id: f.client}
		s.clients[f.client] = c
	}
	if c.forgotten(f.request) {
		return refuse(RequestTooOld)
	}
	asked := fingerprint(rec)
	if sl := c.slot(f.request); sl != nil && sl.request == f.request {
		if sl.fingerprint != asked {
			return refuse(RequestReused)
		}
		o := sl.outcome()
		o.Duplicate = true
		return o
	}
	code, balance := s.move(f)
	c.remember(slot{request: f.request, fingerprint: asked, code: code, first: first, next: next, balance: balance})
	s.touchClient(c)
	return Outcome{Code: code, First: first, Next: next, Balance: balance}
}

// move changes balances, or refuses.
func (s *State) move(f *fields) (Code, int64) {
	to := s.accounts[string(f.to)]
	if f.kind == KindOpen {
		if to != nil {
			return AccountExists, 0
		}
		if len(s.accounts) >= AccountsMax {
			return AccountLimit, 0
		}
		to = &account{id: AccountID(f.to)}
		s.accounts[string(to.id)] = to
		s.touchAccount(to)
		return Done, 0
	}
	if to == nil {
		return UnknownAccount, 0
	}
	amount := int64(f.amount)
	if f.kind == KindDeposit {
		if amount > int64(AmountMax)-s.minted {
			return MintExhausted, 0
		}
		s.minted += amount
		to.balance += amount
		s.touchAccount(to)
		return Done, to.balance
	}
	from := s.accounts[string(f.from)]
	switch {
	case from == nil:
		return UnknownAccount, 0
	case from == to:
		return SameAccount, 0
	case from.balance < amount:
		return Overdraft, 0
	}
	from.balance -= amount
	to.balance += amount
	s.touchAccount(from)
	s.touchAccount(to)
	return Done, from.balance
}

// forgotten reports that r lies below the window.
func (c *client) forgotten(r Request) bool { return c.top >= Window && r <= c.top-Window }

// slot returns where request r is or would be remembered, nil if that place was
// never used.
func (c *client) slot(r Request) *slot {
	if i := int(r % Window); i < len(c.slots) {
		return &c.slots[i]
	}
	return nil
}

// remember stores an outcome. The window moves up with the newest number;
// outcomes that fall out of it are overwritten by later requests or cleared
// here, so that equal histories leave equal windows.
func (c *client) remember(sl slot) {
	if i := int(sl.request % Window); i >= len(c.slots) {
		c.slots = append(c.slots, make([]slot, i+1-len(c.slots))...)
	}
	if sl.request > c.top {
		if sl.request-c.top > Window {
			clear(c.slots)
		} else {
			for r := c.top + 1; r < sl.request; r++ {
				if old := c.slot(r); old != nil {
					*old = slot{}
				}
			}
		}
		c.top = sl.request
	}
	*c.slot(sl.request) = sl
}

func (sl *slot) outcome() Outcome {
	return Outcome{Code: sl.code, First: sl.first, Next: sl.next, Balance: sl.balance}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fingerprint covers what was asked (kind, amount, names) and not when.
func fingerprint(rec []byte) uint32 {
	return crc32.Update(crc32.Checksum(rec[1:8], castagnoli), castagnoli, rec[40:])
}

// Audit verifies the numbered invariants in one pass over everything. It is for
// tests and the checker, not for the hot path.
func (s *State) Audit() error {
	var sum int64
	for id, a := range s.accounts {
		if sum += a.balance; a.balance < 0 || sum < 0 {
			return fmt.Errorf("audit %s: account %s has %d, sum so far %d", s.currency, id, a.balance, sum)
		}
	}
	if sum != s.minted {
		return fmt.Errorf("audit %s: balances sum to %d, minted %d", s.currency, sum, s.minted)
	}
	for _, c := range s.clients {
		for i, sl := range c.slots {
			used := sl.request != 0
			if used && (int(sl.request%Window) != i || sl.request > c.top || c.forgotten(sl.request)) {
				return fmt.Errorf("audit %s: client %s remembers request %d at %d, newest is %d",
					s.currency, c.id, sl.request, i, c.top)
			}
		}
	}
	return nil
}
