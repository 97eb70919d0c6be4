package book

import (
	"context"
	"errors"
	"fmt"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/journal"
)

// Receipt is what comes of one record: the book's output, which a client hears, or would
// hear if it asked again.
type Receipt struct {
	At      tidegate.Position // where the record begins: with the currency, the receipt's name for ever
	Client  ledger.ClientID
	Request ledger.Request
	Out     bool           // this process has put it out, or would to whoever asks; false: it is held back
	Epoch   tidegate.Epoch // under which it was put out; 0: it was not, or no gate guards the book
	ledger.Outcome
}

func receiptOf(at tidegate.Position, rec []byte, o ledger.Outcome) (Receipt, error) {
	client, request, err := ledger.RecordRequest(rec)
	return Receipt{At: at, Client: client, Request: request, Outcome: o}, err
}

// keep keeps the receipt of a record that was applied, put out under an epoch if raft
// has brought it; b.mu is held.
func (b *Book) keep(at tidegate.Position, rec []byte, o ledger.Outcome, epoch tidegate.Epoch) error {
	if b.receiptsMax == 0 {
		return nil
	}
	r, err := receiptOf(at, rec, o)
	if err != nil {
		return err
	}
	if b.taken.Load() {
		r.Out, r.Epoch = true, epoch
	}
	if b.receipts = append(b.receipts, r); len(b.receipts) >= 2*b.receiptsMax {
		b.receipts = append(b.receipts[:0], b.receipts[len(b.receipts)-b.receiptsMax:]...)
	}
	return nil
}

// Receipts returns the newest receipts of what this process has applied, as many as
// Config.Receipts says at least, oldest first; ok is false when it keeps none.
func (b *Book) Receipts() (all []Receipt, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(all, b.receipts...), b.receiptsMax > 0
}

// Handed returns the receipts that a book which follows holds back, and takes them for put
// out by another process: PutOut leaves them out.
func (b *Book) Handed() (all []Receipt) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handed = b.state.Position()
	for _, r := range b.receipts {
		if !r.Out {
			all = append(all, r)
		}
	}
	return all
}

// PutOut says that the book was promoted: what it held back and has not handed leaves
// under that epoch.
func (b *Book) PutOut(epoch tidegate.Epoch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.receipts {
		if r := &b.receipts[i]; !r.Out && r.At >= b.handed {
			r.Out, r.Epoch = true, epoch
		}
	}
}

// Execute carries the journal out once more, on a state of its own that begins with the
// oldest one beside the journal, or empty: what would have come of it without a stop or a
// promotion in between. each gets every receipt in the journal's order; its error ends it.
func (b *Book) Execute(ctx context.Context, each func(Receipt) error) (err error) {
	fail := func(err error) error { return fmt.Errorf("execute journal of %s anew: %w", b.currency, err) }
	again := newBook(b.currency, b.dir, b.journal)
	if b.journal.First() > 0 {
		if err := b.journal.RestoreOldest(ctx, &service{book: again}); err != nil {
			return fail(err)
		}
	}
	r, err := b.journal.NewReader(again.Position())
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for ctx.Err() == nil {
		rec, ok, err := r.TryNext()
		if err != nil {
			return fail(err)
		}
		if !ok {
			return nil
		}
		if rec.Kind != journal.KindData {
			if err := again.SkipTo(rec.Next); err != nil {
				return fail(err)
			}
			continue
		}
		o, err := again.state.Apply(rec.First, rec.Next, rec.Payload)
		if err != nil {
			return fail(err)
		}
		receipt, err := receiptOf(rec.First, rec.Payload, o)
		if err == nil {
			err = each(receipt)
		}
		if err != nil {
			return fail(err)
		}
	}
	return ctx.Err()
}
