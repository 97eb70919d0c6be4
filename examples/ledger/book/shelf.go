package book

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/ledger"
	"github.com/tidegate/tidegate/internal/local"
	"github.com/tidegate/tidegate/journal"
)

// Config says where the books are and who carries them.
type Config struct {
	Dir      string               // one folder per currency is made below it
	Service  tidegate.ServiceName // the consistency group: its streams are the currencies
	History  string               // name of the history, equal on all replicas; see [HistoryID]
	Run      string               // run folder of the daemons on this machine, see [local.SocketPath]; empty: no daemons
	Standby  bool                 // a standby node's daemon is among them
	Endpoint string               // host:port where this node answers clients
	Receipts int                  // how many receipts each book keeps, see [Book.Receipts]; 0: none
}

// Desk is told what the daemons decide about the node's part.
type Desk interface {
	// Promote makes book b the active one under epoch; the journal ends with the
	// branch record of epoch, which lies at position at, and the state is there
	// too. It returns once commands can be taken. It may be called again with
	// the same arguments, and for several books at the same time.
	Promote(ctx context.Context, b *Book, epoch tidegate.Epoch, at tidegate.Position) error

	// Fenced says that epoch is held by somebody else. It must not block.
	Fenced(b *Book, epoch tidegate.Epoch)

	// Following says that book b is written elsewhere under epoch: once it has
	// returned, nothing but the journal's follower moves the book's state. It may be
	// called again, and for several books at the same time.
	Following(ctx context.Context, b *Book, epoch tidegate.Epoch) error
}

// Shelf is the books of all currencies.
type Shelf struct {
	books []*Book
	log   *slog.Logger
}

// Open opens or makes the journals. The states are empty until they are
// replayed or installed.
func Open(log *slog.Logger, cfg Config) (*Shelf, error) {
	s := &Shelf{log: log}
	for _, c := range ledger.Currencies() {
		dir := filepath.Join(cfg.Dir, c.String())
		stream := tidegate.StreamName(c.String())
		var agent, standby string
		if cfg.Run != "" {
			agent = local.SocketPath(cfg.Run, local.DaemonAgent, cfg.Service, stream)
			if cfg.Standby {
				standby = local.SocketPath(cfg.Run, local.DaemonStandby, cfg.Service, stream)
			}
		}
		j, err := journal.Open(dir, journal.Config{
			Service: cfg.Service, Stream: stream, ID: HistoryID(cfg.History, c),
			AgentSocket: agent, StandbySocket: standby, Endpoint: cfg.Endpoint,
			Log: log,
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open book %s: %w", c, err), s.Close())
		}
		if r := j.Recovery(); r.Quarantined != "" {
			log.Warn("torn end of journal moved aside", "stream", c.String(), "bytes", r.TornBytes, "path", r.Quarantined)
		}
		b := newBook(c, dir, j)
		b.receiptsMax = cfg.Receipts
		s.books = append(s.books, b)
	}
	return s, nil
}

// Books returns the books in the order of [ledger.Currencies].
func (s *Shelf) Books() []*Book { return s.books }

// Book returns a currency's book, nil for a currency that is not kept.
func (s *Shelf) Book(c ledger.Currency) *Book {
	for _, b := range s.books {
		if b.currency == c {
			return b
		}
	}
	return nil
}

// Recover rebuilds every state from what lies on this node's disk.
func (s *Shelf) Recover(ctx context.Context) error {
	for _, b := range s.books {
		if err := b.Recover(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Run connects every journal to the daemons on this node until ctx ends.
func (s *Shelf) Run(ctx context.Context, desk Desk) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, b := range s.books {
		g.Go(func() error {
			if err := b.journal.Run(ctx, &service{book: b, desk: desk}); err != nil {
				return fmt.Errorf("run journal %s: %w", b.currency, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Close closes the journals; Run must have returned.
func (s *Shelf) Close() error {
	var errs []error
	for _, b := range s.books {
		if err := b.journal.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close journal %s: %w", b.currency, err))
		}
	}
	return errors.Join(errs...)
}

// service is what one journal calls back.
type service struct {
	book *Book
	desk Desk
}

func (s *service) State() (tidegate.Position, tidegate.Digest) {
	c := s.book.Digest()
	return c.Position, c.Digest
}

func (s *service) Apply(r journal.Record) error { return s.book.Apply(r) }

func (s *service) Promote(ctx context.Context, epoch tidegate.Epoch, at tidegate.Position) error {
	if s.book.Position() < at {
		return &tidegate.Error{
			Op: "promote", Subject: s.book.currency.String(), Class: tidegate.Permanent,
			Err: fmt.Errorf("state is at %s, the branch at %s: %w", s.book.Position(), at, tidegate.ErrGap),
		}
	}
	return s.desk.Promote(ctx, s.book, epoch, at)
}

func (s *service) Fenced(epoch tidegate.Epoch) { s.desk.Fenced(s.book, epoch) }

func (s *service) Following(ctx context.Context, epoch tidegate.Epoch) error {
	return s.desk.Following(ctx, s.book, epoch)
}

// Rewound builds the state anew, from a snapshot of before to or from nothing.
func (s *service) Rewound(ctx context.Context, to tidegate.Position) error {
	if s.book.Position() <= to {
		return nil
	}
	return s.book.Rebuild(ctx)
}

// Snapshot holds the book up for a copy; what takes longer, putting it in order, is
// done when it is written.
func (s *service) Snapshot() (io.WriterTo, error) { return held{s.book.Hold()}, nil }

// held is a state that is to be written down.
type held struct{ state *ledger.State }

// WriteTo implements io.WriterTo.
func (h held) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(h.state.AppendSnapshot(nil))
	return int64(n), err
}

func (s *service) Restore(_ context.Context, _ tidegate.Position, r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	state, err := ledger.ParseSnapshot(raw)
	if err != nil {
		return err
	}
	return s.book.Restore(state)
}

var (
	_ journal.Follower    = (*service)(nil)
	_ journal.Rewinder    = (*service)(nil)
	_ journal.Snapshotter = (*service)(nil)
)
