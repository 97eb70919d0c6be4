package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/tidegate/tidegate"
	"github.com/tidegate/tidegate/examples/ledger/api"
	"github.com/tidegate/tidegate/examples/ledger/book"
	"github.com/tidegate/tidegate/internal/retry"
	"github.com/tidegate/tidegate/journal"
)

// ChunkBytes is how much of a journal one answer carries at most, about.
const ChunkBytes = 4 << 20

// fetcher copies missing journal ranges from peers.
type fetcher struct {
	log   *slog.Logger
	http  *http.Client
	peers []Peer // without this node
}

// fill brings b's journal up to position to. It goes from peer to peer, as
// often as needed, until it is there or ctx ends: raft waits for it, because a
// journal with a hole would be worse than a node that is late.
func (f *fetcher) fill(ctx context.Context, b *book.Book, to tidegate.Position) error {
	if len(f.peers) == 0 {
		return &tidegate.Error{
			Op: "fetch journal", Subject: b.Currency().String(), Class: tidegate.Permanent,
			Err: fmt.Errorf("it ends at %s, the raft snapshot is at %s, and there is no peer: %w", b.Journal().End(), to, tidegate.ErrGap),
		}
	}
	back := retry.Policy{First: 50 * time.Millisecond, Max: time.Second}.Backoff()
	f.log.Info("fetching missing journal range", "stream", b.Currency().String(), "from", b.Journal().End(), "to", to)
	for {
		var errs []error
		for _, p := range f.peers {
			err := f.fillFrom(ctx, p, b, to)
			if err == nil {
				return nil
			}
			if c := tidegate.ClassOf(err); c == tidegate.Fenced || errors.Is(err, tidegate.ErrDiverged) || errors.Is(err, tidegate.ErrStopped) {
				return err
			}
			errs = append(errs, err)
		}
		f.log.Warn("no peer had the missing journal range", "stream", b.Currency().String(), "err", errors.Join(errs...))
		if err := back.Wait(ctx); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
}

func (f *fetcher) fillFrom(ctx context.Context, p Peer, b *book.Book, to tidegate.Position) error {
	for {
		from := b.Journal().End()
		if from >= to {
			return nil
		}
		raw, err := f.get(ctx, p, b, from, to)
		if err != nil {
			return fmt.Errorf("fetch journal %s from %s: %w", b.Currency(), p.Node, err)
		}
		if err := b.Fill(ctx, from, raw); err != nil {
			return err
		}
	}
}

// get returns verified whole records from position from on.
func (f *fetcher) get(ctx context.Context, p Peer, b *book.Book, from, to tidegate.Position) ([]byte, error) {
	u, err := url.JoinPath(p.HTTP, "journal", b.Currency().String())
	if err != nil {
		return nil, err
	}
	u += "?" + url.Values{"from": {from.String()}, "to": {to.String()}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	raw, err := io.ReadAll(io.LimitReader(resp.Body, ChunkBytes+journal.PayloadMax))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	// The peer's word is not taken: every record's checksum and position is
	// verified before the first byte is appended.
	end := from
	if err := journal.Scan(raw, from, func(r journal.Record) error { end = r.Next; return nil }); err != nil {
		return nil, err
	}
	if end == from || end > to || end.String() != resp.Header.Get(api.HeaderNext) {
		return nil, fmt.Errorf("asked for %s to %s, got records up to %s", from, to, end)
	}
	return raw, nil
}
