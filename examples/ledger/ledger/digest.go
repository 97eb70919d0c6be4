package ledger

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"

	"github.com/tidegate/tidegate"
)

// Checkpoint is the digest of the state at a position.
type Checkpoint struct {
	Position tidegate.Position `json:"position"`
	Digest   tidegate.Digest   `json:"digest"`
}

// sum256 is an unsigned 256-bit number, least significant word first.
type sum256 [4]uint64

func (a *sum256) add(b *sum256) {
	var carry uint64
	for i := range a {
		a[i], carry = bits.Add64(a[i], b[i], carry)
	}
}

func (a *sum256) sub(b *sum256) {
	var borrow uint64
	for i := range a {
		a[i], borrow = bits.Sub64(a[i], b[i], borrow)
	}
}

// item is the part of an account or client that the digest keeps.
type item struct {
	counted sum256 // what the sum holds for this item; 0 before the first time
	dirty   bool   // changed since then
}

// hashes keeps the two sums of per-item hashes up to date lazily: applying a
// record only marks what it touched.
type hashes struct {
	accountSum, clientSum sum256
	dirtyAccounts         []*account
	dirtyClients          []*client
	scratch               []byte
}

func (h *hashes) touchAccount(a *account) {
	if !a.dirty {
		a.dirty = true
		h.dirtyAccounts = append(h.dirtyAccounts, a)
	}
}

func (h *hashes) touchClient(c *client) {
	if !c.dirty {
		c.dirty = true
		h.dirtyClients = append(h.dirtyClients, c)
	}
}

// Digest returns the digest of everything that decides future outcomes:
// position, minted total, accounts with balances, clients with their windows.
// Equal states have equal digests, whatever order led to them and whether or
// not they were restored from a snapshot.
//
// It is SHA-256/128 over the counters and two sums modulo 2^256 of the SHA-256
// of every account and of every client (the incremental hash "AdHash"). So its
// cost is that of the items touched since the last call, not of all items. A
// difference by accident goes unseen with probability 2^-128; a forger who may
// choose very many account names could make two states collide (Wagner's
// generalised birthday attack), which is why evidence against an adversary
// rests on the journal's bytes and not on this number.
func (s *State) Digest() tidegate.Digest {
	for _, a := range s.dirtyAccounts {
		s.scratch = a.appendCanonical(s.scratch[:0])
		s.accountSum.recount(&a.item, s.scratch)
	}
	for _, c := range s.dirtyClients {
		s.scratch = c.appendCanonical(s.scratch[:0])
		s.clientSum.recount(&c.item, s.scratch)
	}
	clear(s.dirtyAccounts)
	clear(s.dirtyClients)
	s.dirtyAccounts, s.dirtyClients = s.dirtyAccounts[:0], s.dirtyClients[:0]

	b := append(s.scratch[:0], "tidegate ledger state 1\x00"...)
	b = append(b, byte(s.currency))
	for _, v := range [...]uint64{
		uint64(s.position), s.records, uint64(s.minted), uint64(len(s.accounts)), uint64(len(s.clients)),
	} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	for _, sum := range [...]*sum256{&s.accountSum, &s.clientSum} {
		for _, w := range sum {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
	}
	s.scratch = b
	full := sha256.Sum256(b)
	return tidegate.Digest(full[:16])
}

// recount replaces what sum holds for an item by the hash of its present bytes.
func (a *sum256) recount(it *item, canonical []byte) {
	h := sha256.Sum256(canonical)
	var now sum256
	for i := range now {
		now[i] = binary.LittleEndian.Uint64(h[8*i:])
	}
	a.sub(&it.counted)
	a.add(&now)
	it.counted, it.dirty = now, false
}

// checkpoint keeps the digest at the present position. Where checkpoints lie
// follows from the record count alone, so every replica has the same ones.
func (s *State) checkpoint() {
	p := Checkpoint{Position: s.position, Digest: s.Digest()}
	if len(s.checkpoints) < checkpointsMax {
		s.checkpoints = append(s.checkpoints, p)
		return
	}
	s.checkpoints[s.nextPoint] = p
	s.nextPoint = (s.nextPoint + 1) % checkpointsMax
}

// CheckpointAt returns the kept digest at exactly p.
func (s *State) CheckpointAt(p tidegate.Position) (Checkpoint, bool) {
	for _, c := range s.checkpoints {
		if c.Position == p {
			return c, true
		}
	}
	return Checkpoint{}, false
}

// Checkpoints returns the kept checkpoints, oldest first.
func (s *State) Checkpoints() []Checkpoint {
	return append(append([]Checkpoint(nil), s.checkpoints[s.nextPoint:]...), s.checkpoints[:s.nextPoint]...)
}
