package ledger

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/tidegate/tidegate"
)

// A snapshot's bytes, version 1, little-endian:
//
//	magic "TGLS", version u16, currency u8, 0 u8
//	position u64, records u64, minted u64, accounts u32, clients u32
//	accounts, ascending by id:  id length u8, id, balance u64
//	clients, ascending by id:   id 16, newest request u64, used slots u8,
//	                            slots ascending by index: request u64, fingerprint u32, code u8, first u64, next u64, balance u64
//	digest of the state 16, CRC-32C of all before it u32
const (
	snapshotMagic     = "TGLS"
	snapshotVersion   = 1
	snapshotHeaderLen = 8 + 3*8 + 2*4
	slotLen           = 8 + 4 + 1 + 3*8
)

// appendCanonical is an account's form in the digest and in snapshots.
func (a *account) appendCanonical(b []byte) []byte {
	b = append(b, byte(len(a.id)))
	b = append(b, a.id...)
	return binary.LittleEndian.AppendUint64(b, uint64(a.balance))
}

// appendCanonical is a client's form in the digest and in snapshots.
func (c *client) appendCanonical(b []byte) []byte {
	b = append(b, c.id[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.top))
	count := len(b)
	b = append(b, 0)
	for i := range c.slots {
		sl := &c.slots[i]
		if sl.request == 0 {
			continue
		}
		b[count]++
		b = binary.LittleEndian.AppendUint64(b, uint64(sl.request))
		b = binary.LittleEndian.AppendUint32(b, sl.fingerprint)
		b = append(b, byte(sl.code))
		b = binary.LittleEndian.AppendUint64(b, uint64(sl.first))
		b = binary.LittleEndian.AppendUint64(b, uint64(sl.next))
		b = binary.LittleEndian.AppendUint64(b, uint64(sl.balance))
	}
	return b
}

// Clone returns a copy that does not change with s. It costs a copy of what there is,
// and none of the sorting that a snapshot takes.
func (s *State) Clone() *State {
	s.Digest() // what is dirty is settled: the copy has no part in it
	c := *s
	c.hashes = hashes{accountSum: s.accountSum, clientSum: s.clientSum}
	c.checkpoints = slices.Clone(s.checkpoints)
	accounts := make([]account, 0, len(s.accounts))
	c.accounts = make(map[string]*account, len(s.accounts))
	for id, a := range s.accounts {
		accounts = append(accounts, *a)
		c.accounts[id] = &accounts[len(accounts)-1]
	}
	clients := make([]client, 0, len(s.clients))
	c.clients = make(map[ClientID]*client, len(s.clients))
	for id, k := range s.clients {
		clients = append(clients, *k)
		clients[len(clients)-1].slots = slices.Clone(k.slots)
		c.clients[id] = &clients[len(clients)-1]
	}
	return &c
}

// AppendSnapshot appends the whole state to dst: the same bytes for equal states.
func (s *State) AppendSnapshot(dst []byte) []byte {
	start := len(dst)
	digest := s.Digest()
	dst = append(dst, snapshotMagic...)
	dst = binary.LittleEndian.AppendUint16(dst, snapshotVersion)
	dst = append(dst, byte(s.currency), 0)
	for _, v := range [...]uint64{uint64(s.position), s.records, uint64(s.minted)} {
		dst = binary.LittleEndian.AppendUint64(dst, v)
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(s.accounts)))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(s.clients)))
	for _, o := range s.inOrder() {
		dst = o.account.appendCanonical(dst)
	}
	clients := make([]*client, 0, len(s.clients))
	for _, c := range s.clients {
		clients = append(clients, c)
	}
	slices.SortFunc(clients, func(a, b *client) int { return slices.Compare(a.id[:], b.id[:]) })
	for _, c := range clients {
		dst = c.appendCanonical(dst)
	}
	dst = append(dst, digest[:]...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// ordered is an account with what its id begins with.
type ordered struct {
	begins  uint64
	account *account
}

// inOrder returns the accounts, ascending by id. Clients wait for it at a promotion: the
// first bytes in which ids differ are compared as numbers, which spares most of the looks
// at the ids themselves.
func (s *State) inOrder() []ordered {
	all, shared, first := make([]ordered, 0, len(s.accounts)), "", true
	for id, a := range s.accounts {
		all = append(all, ordered{account: a})
		if first {
			shared, first = id, false
		}
		for !strings.HasPrefix(id, shared) {
			shared = shared[:len(shared)-1]
		}
	}
	for i := range all {
		var begins [8]byte
		copy(begins[:], all[i].account.id[len(shared):])
		all[i].begins = binary.BigEndian.Uint64(begins[:])
	}
	slices.SortFunc(all, func(a, b ordered) int {
		if a.begins != b.begins {
			return cmp.Compare(a.begins, b.begins)
		}
		return strings.Compare(string(a.account.id), string(b.account.id))
	})
	return all
}

// ParseSnapshot is the strict inverse of [State.AppendSnapshot]. The state it
// returns passes [State.Audit] and has the digest the snapshot names.
func ParseSnapshot(b []byte) (*State, error) {
	s, err := parseSnapshot(b)
	if err != nil {
		return nil, &tidegate.Error{Op: "parse ledger snapshot", Class: tidegate.Corrupt, Err: err}
	}
	return s, nil
}

func parseSnapshot(b []byte) (*State, error) {
	if len(b) < snapshotHeaderLen+16+4 {
		return nil, fmt.Errorf("%d bytes: want at least %d", len(b), snapshotHeaderLen+16+4)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("checksum mismatch (want %08x, got %08x)", sum, got)
	}
	if string(b[:4]) != snapshotMagic {
		return nil, fmt.Errorf("magic %q: want %q", b[:4], snapshotMagic)
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v != snapshotVersion {
		return nil, fmt.Errorf("version %d: %w", v, tidegate.ErrUnsupported)
	}
	s := New(Currency(b[6]))
	if _, err := ParseCurrency(s.currency.String()); err != nil || b[7] != 0 {
		return nil, fmt.Errorf("currency %d, reserved %d", b[6], b[7])
	}
	s.position = tidegate.Position(binary.LittleEndian.Uint64(b[8:]))
	s.records = binary.LittleEndian.Uint64(b[16:])
	s.minted = int64(binary.LittleEndian.Uint64(b[24:]))
	accounts, clients := binary.LittleEndian.Uint32(b[32:]), binary.LittleEndian.Uint32(b[36:])
	digest := tidegate.Digest(body[len(body)-16:])
	rest := body[snapshotHeaderLen : len(body)-16]
	var err error
	if rest, err = s.parseAccounts(rest, accounts); err != nil {
		return nil, err
	}
	if rest, err = s.parseClients(rest, clients); err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		return nil, fmt.Errorf("%d bytes after the last client", len(rest))
	}
	if err := s.Audit(); err != nil {
		return nil, err
	}
	if got := s.Digest(); got != digest {
		return nil, fmt.Errorf("digest mismatch (want %s, got %s)", digest, got)
	}
	return s, nil
}

var errShort = errors.New("ends inside an item")

func (s *State) parseAccounts(b []byte, n uint32) ([]byte, error) {
	last := ""
	for range n {
		if len(b) < 1 || len(b) < 1+int(b[0])+8 {
			return nil, errShort
		}
		id := string(b[1 : 1+int(b[0])])
		if id <= last {
			return nil, fmt.Errorf("account %q after %q", id, last)
		}
		last = id
		a := &account{id: AccountID(id), balance: int64(binary.LittleEndian.Uint64(b[1+len(id):]))}
		s.accounts[id] = a
		s.touchAccount(a)
		b = b[1+len(id)+8:]
	}
	return b, nil
}

func (s *State) parseClients(b []byte, n uint32) ([]byte, error) {
	var last ClientID
	for range n {
		if len(b) < 16+8+1 {
			return nil, errShort
		}
		c := &client{id: ClientID(b[:16]), top: Request(binary.LittleEndian.Uint64(b[16:]))}
		if slices.Compare(c.id[:], last[:]) <= 0 {
			return nil, fmt.Errorf("client %s after %s", c.id, last)
		}
		last = c.id
		used := int(b[24])
		b = b[25:]
		if used > Window || len(b) < used*slotLen {
			return nil, errShort
		}
		for range used {
			sl := slot{
				request:     Request(binary.LittleEndian.Uint64(b)),
				fingerprint: binary.LittleEndian.Uint32(b[8:]),
				code:        Code(b[12]),
				first:       tidegate.Position(binary.LittleEndian.Uint64(b[13:])),
				next:        tidegate.Position(binary.LittleEndian.Uint64(b[21:])),
				balance:     int64(binary.LittleEndian.Uint64(b[29:])),
			}
			b = b[slotLen:]
			i := int(sl.request % Window)
			if sl.request == 0 || i < len(c.slots) {
				return nil, fmt.Errorf("client %s: slot of request %d out of order", c.id, sl.request)
			}
			c.slots = append(c.slots, make([]slot, i+1-len(c.slots))...)
			c.slots[i] = sl
		}
		s.clients[c.id] = c
		s.touchClient(c)
	}
	return b, nil
}
