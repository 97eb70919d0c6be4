package book

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/journal"
)

// Conditions of [Book.DigestAt].
var (
	// ErrPast says that the state has moved beyond a position and kept no digest there.
	ErrPast = errors.New("the state has moved on and kept no digest at that position")
	// ErrNotABoundary says that no record ends at a position.
	ErrNotABoundary = errors.New("no record ends at that position")
)

// Book is one currency's journal and state.
type Book struct {
	currency ledger.Currency
	dir      string
	journal  *journal.Journal

	mu          sync.Mutex
	state       *ledger.State
	waiters     []*waiter         // of DigestAt, beyond the state's position
	receipts    []Receipt         // oldest first
	handed      tidegate.Position // receipts of records before it were put out by another process
	receiptsMax int               // so many are kept, and up to twice that; 0: none

	taken  atomic.Bool           // raft alone feeds the state
	broken atomic.Pointer[error] // why nothing more can be appended
}

type waiter struct {
	at   tidegate.Position
	done chan struct{} // closed once checkpoint or err is set
	got  ledger.Checkpoint
	err  error
}

// HistoryID derives the journal's id from a name that all replicas are given,
// so that they agree without talking to each other.
func HistoryID(history string, c ledger.Currency) tidegate.ID {
	sum := sha256.Sum256([]byte("tidegate ledger history 1\x00" + history + "\x00" + c.String()))
	return tidegate.ID(sum[:16])
}

func newBook(c ledger.Currency, dir string, j *journal.Journal) *Book {
	return &Book{currency: c, dir: dir, journal: j, state: ledger.New(c)}
}

// Currency returns the currency of the book.
func (b *Book) Currency() ledger.Currency { return b.currency }

// Journal returns the book's journal, for reading and for its watermarks.
func (b *Book) Journal() *journal.Journal { return b.journal }

// Fenced returns the epoch that is held by somebody else, 0 if none is known.
func (b *Book) Fenced() tidegate.Epoch { return b.journal.Status().FencedBy }

// Broken returns why nothing can be appended any more, nil if it can. Only
// GiveBack takes it back; otherwise the process must be started again.
func (b *Book) Broken() error {
	if p := b.broken.Load(); p != nil {
		return *p
	}
	return nil
}

func (b *Book) breakDown(err error) error {
	b.broken.CompareAndSwap(nil, &err)
	return err
}

// TakeOver says that from now on only Append and Install move the state: it is
// fed by raft, and a record that the journal's follower still hands to Apply is
// one that raft brings too.
func (b *Book) TakeOver() { b.taken.Store(true) }

// GiveBack takes TakeOver back: the journal's follower feeds the state again,
// from where it is. What a fence had broken is whole again.
func (b *Book) GiveBack() {
	b.broken.Store(nil)
	b.taken.Store(false)
}

// Rebuild makes the state anew from the journal, which has been cut: records
// that were applied are no longer in it.
func (b *Book) Rebuild(ctx context.Context) error {
	b.mu.Lock()
	b.state = ledger.New(b.currency)
	b.mu.Unlock()
	return b.Recover(ctx)
}

// Recover brings the state to the journal's end: from the newest state that lies beside
// the journal, if there is one, by what the journal holds behind it.
func (b *Book) Recover(ctx context.Context) error {
	if _, err := b.journal.Restore(ctx, &service{book: b}); err != nil {
		return fmt.Errorf("recover %s: %w", b.currency, err)
	}
	return b.Replay()
}

// Restore replaces the state by s, wherever the journal begins or ends. Not while raft
// feeds it.
func (b *Book) Restore(s *ledger.State) error {
	fail := func(class tidegate.Class, err error) error {
		return &tidegate.Error{Op: "restore state", Subject: b.currency.String(), Class: class, Err: err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case s.Currency() != b.currency:
		return fail(tidegate.Misuse, fmt.Errorf("it is of %s", s.Currency()))
	case b.taken.Load():
		return fail(tidegate.Transient, fmt.Errorf("it is fed by raft: %w", tidegate.ErrConflict))
	}
	b.state = s
	b.reached()
	return nil
}

// Position returns where the state's next record begins.
func (b *Book) Position() tidegate.Position {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Position()
}

// View calls f with the state; f must neither keep nor change it, and be quick.
func (b *Book) View(f func(*ledger.State)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b.state)
}

// Snapshot returns the encoded state.
func (b *Book) Snapshot() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.AppendSnapshot(nil)
}

// Hold returns a copy of the state as it is now.
func (b *Book) Hold() *ledger.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Clone()
}

// Append journals commands at the positions that follow the state's, in the
// order given, and applies them. It returns when all are durable. Doing it again
// from an older state is harmless: the journal compares. After an error the
// book is [Book.Broken].
func (b *Book) Append(ctx context.Context, recs [][]byte) ([]ledger.Outcome, error) {
	if err := b.Broken(); err != nil {
		return nil, err
	}
	ranges := make([]journal.Range, len(recs))
	at := b.Position()
	for i, rec := range recs {
		t, err := ledger.RecordTime(rec)
		if err != nil {
			return nil, b.breakDown(err)
		}
		// The lock is not held here: the journal may wait for the disk, and asks
		// for the state meanwhile.
		if ranges[i], err = b.journal.SubmitAt(ctx, at, rec, t); err != nil {
			return nil, b.breakDown(fmt.Errorf("journal %s at %s: %w", b.currency, at, err))
		}
		at = ranges[i].Next
	}
	if err := b.journal.WaitDurable(ctx, at); err != nil {
		return nil, b.breakDown(fmt.Errorf("journal %s up to %s: %w", b.currency, at, err))
	}
	epoch := b.journal.Status().Epoch // nor here
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]ledger.Outcome, len(recs))
	for i, rec := range recs {
		var err error
		if out[i], err = b.state.Apply(ranges[i].First, ranges[i].Next, rec); err == nil {
			err = b.keep(ranges[i].First, rec, out[i], epoch)
		}
		if err != nil {
			return nil, b.breakDown(err)
		}
		b.reached()
	}
	return out, nil
}

// Apply applies a record that is already in the journal: while following, and
// when the state is rebuilt at a start.
func (b *Book) Apply(r journal.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken.Load() || r.Next <= b.state.Position() {
		return nil
	}
	if r.Kind == journal.KindData && r.First > b.state.Position() {
		// Between data records lie the journal's own.
		if err := b.state.Skip(b.state.Position(), r.First); err != nil {
			return err
		}
	}
	var err error
	if r.Kind == journal.KindData {
		var o ledger.Outcome
		if o, err = b.state.Apply(r.First, r.Next, r.Payload); err == nil {
			err = b.keep(r.First, r.Payload, o, 0)
		}
	} else {
		err = b.state.Skip(r.First, r.Next)
	}
	b.reached()
	return err
}

// SkipTo moves the state past the journal's own records up to p, where the
// journal ends.
func (b *Book) SkipTo(p tidegate.Position) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state.Position() == p {
		return nil
	}
	err := b.state.Skip(b.state.Position(), p)
	b.reached()
	return err
}

// Replay applies what the journal holds beyond the state.
func (b *Book) Replay() (err error) {
	r, err := b.journal.NewReader(b.Position())
	if err != nil {
		return fmt.Errorf("replay %s: %w", b.currency, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for {
		rec, ok, err := r.TryNext()
		if err != nil {
			return fmt.Errorf("replay %s: %w", b.currency, err)
		}
		if !ok {
			return nil
		}
		if err := b.Apply(rec); err != nil {
			return fmt.Errorf("replay %s: %w", b.currency, err)
		}
	}
}

// Install replaces the state by s. The journal must reach s's position: see
// [Book.Fill].
func (b *Book) Install(s *ledger.State) error {
	if s.Currency() != b.currency {
		return &tidegate.Error{
			Op: "install state", Subject: b.currency.String(), Class: tidegate.Misuse, Err: fmt.Errorf("it is of %s", s.Currency()),
		}
	}
	if end := b.journal.End(); s.Position() > end {
		return &tidegate.Error{
			Op: "install state", Subject: b.currency.String(), Class: tidegate.Permanent,
			Err: fmt.Errorf("it is at %s, the journal ends at %s: %w", s.Position(), end, tidegate.ErrGap),
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = s
	b.reached()
	return nil
}

// Fill appends journal bytes fetched from a replica, whole records beginning at
// first, and makes them durable.
func (b *Book) Fill(ctx context.Context, first tidegate.Position, raw []byte) error {
	if _, err := b.journal.AppendRaw(ctx, first, raw); err != nil {
		return fmt.Errorf("fill journal %s at %s: %w", b.currency, first, err)
	}
	if err := b.journal.Sync(ctx); err != nil {
		return fmt.Errorf("fill journal %s at %s: %w", b.currency, first, err)
	}
	return nil
}

// Remembered returns the outcome of a command that was already carried out and
// is only being repeated, so that it need not be journaled again.
func (b *Book) Remembered(rec []byte) (ledger.Outcome, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.Remembered(rec)
}

// Release returns nil when an output that depends on the journal up to p, and
// wants at least durability, may leave the process. Errors are those of
// [journal.Journal.AwaitDurability].
func (b *Book) Release(ctx context.Context, p tidegate.Position, durability tidegate.Mode) error {
	return b.journal.AwaitDurability(ctx, p, durability)
}

// DigestAt returns the digest of the state at position at, waiting until it is
// reached. It returns [ErrPast] or [ErrNotABoundary] when there will never be
// one, or ctx's error.
func (b *Book) DigestAt(ctx context.Context, at tidegate.Position) (ledger.Checkpoint, error) {
	b.mu.Lock()
	if now := b.state.Position(); at <= now {
		defer b.mu.Unlock()
		if at == now {
			return ledger.Checkpoint{Position: at, Digest: b.state.Digest()}, nil
		}
		if c, ok := b.state.CheckpointAt(at); ok {
			return c, nil
		}
		return ledger.Checkpoint{}, ErrPast
	}
	w := &waiter{at: at, done: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	select {
	case <-w.done:
		return w.got, w.err
	case <-ctx.Done():
		b.forget(w)
		return ledger.Checkpoint{}, ctx.Err()
	}
}

// Digest returns the digest of the state where it is now.
func (b *Book) Digest() ledger.Checkpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	return ledger.Checkpoint{Position: b.state.Position(), Digest: b.state.Digest()}
}

// reached answers the waiters that the state has come to; b.mu is held.
func (b *Book) reached() {
	if len(b.waiters) == 0 {
		return
	}
	now := b.state.Position()
	left := b.waiters[:0]
	for _, w := range b.waiters {
		switch {
		case w.at > now:
			left = append(left, w)
			continue
		case w.at == now:
			w.got = ledger.Checkpoint{Position: now, Digest: b.state.Digest()}
		default:
			w.err = ErrNotABoundary
		}
		close(w.done)
	}
	clear(b.waiters[len(left):])
	b.waiters = left
}

func (b *Book) forget(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.waiters {
		if x == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			return
		}
	}
}

// ReadChunk returns whole journal records from position from on, about bytesMax
// bytes, not beyond to, all durable here, and the position behind them; no bytes
// if from is the journal's end.
func (b *Book) ReadChunk(ctx context.Context, from, to tidegate.Position, bytesMax int) (raw []byte, next tidegate.Position, err error) {
	if min(to, b.journal.End()) > b.journal.Durable() {
		// A follower syncs its journal lazily.
		if err := b.journal.Sync(ctx); err != nil {
			return nil, from, fmt.Errorf("read journal %s at %s: %w", b.currency, from, err)
		}
	}
	to = min(to, b.journal.Durable())
	if from >= to {
		return nil, from, nil
	}
	r, err := journal.OpenReader(b.dir, from)
	if err != nil {
		return nil, from, fmt.Errorf("read journal %s at %s: %w", b.currency, from, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	raw, next, err = r.Read(to, bytesMax)
	if err != nil {
		return nil, from, fmt.Errorf("read journal %s at %s: %w", b.currency, from, err)
	}
	// The reader's buffer ends with it.
	return append([]byte(nil), raw...), next, nil
}
